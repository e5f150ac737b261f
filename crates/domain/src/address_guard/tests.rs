//! The class of each special address, in every form that carries it, and what follows for names and URLs.

use proptest::prelude::*;

use super::*;

fn class(text: &str) -> AddressClass {
    AddressClass::of(text.parse().unwrap())
}

/// Link-local, metadata and other special addresses, which nobody may be sent to.
const NEVER: [&str; 46] = [
    "0.0.0.0",
    "0.1.2.3",
    "169.254.169.254",
    "169.254.170.2",
    "169.254.0.1",
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "198.51.100.7",
    "203.0.113.7",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::127.0.0.1",
    "::8.8.8.8",
    "::ffff:169.254.169.254",
    "::ffff:100.100.100.200",
    "::ffff:0:169.254.169.254",
    "64:ff9b::169.254.169.254",
    "64:ff9b:1::169.254.169.254",
    "64:ff9b:1:a9fe:a9:fe00::",
    "100::1",
    "2001::1",
    "2001:0:a9fe:a9fe::1",
    "2001:1ff::1",
    "2001:db8::1",
    "2002:a9fe:a9fe::1",
    "2606:4700::5efe:169.254.169.254",
    "2606:4700::200:5efe:169.254.169.254",
    "3fff::1",
    "5f00::1",
    "fd00:ec2::254",
    "fd00:ec2::23",
    "fd20:ce::254",
    "fd00:c1::a9fe:a9fe",
    "fd00:42::42",
    "fd00:a9fe:a9fe::1",
    "fe80::1",
    "fe80::a9fe:a9fe",
    "febf::1",
    "fec0::1",
    "ff02::1",
];

/// Addresses of private networks.
const PRIVATE: [&str; 16] = [
    "10.0.0.1",
    "100.64.0.1",
    "100.127.255.255",
    "127.0.0.1",
    "127.255.0.1",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "198.18.0.1",
    "198.19.255.255",
    "::1",
    "::ffff:127.0.0.1",
    "64:ff9b::10.0.0.1",
    "2002:7f00:1::1",
    "fc00::1",
    "fd00::1",
];

/// Addresses of the public internet.
const PUBLIC: [&str; 18] = [
    "1.1.1.1",
    "8.8.8.8",
    "100.63.255.255",
    "100.128.0.1",
    "168.63.129.17",
    "172.15.0.1",
    "172.32.0.1",
    "192.0.1.1",
    "192.167.0.1",
    "198.17.0.1",
    "198.20.0.1",
    "223.255.255.255",
    "2001:4860:4860::8888",
    "2606:4700::1111",
    "2a00:1450::1",
    "::ffff:8.8.8.8",
    "64:ff9b::8.8.8.8",
    "2002:808:808::1",
];

#[test]
fn metadata_is_told_from_what_is_only_private() {
    for (addresses, expected) in [
        (&NEVER[..], AddressClass::Never),
        (&PRIVATE, AddressClass::Private),
        (&PUBLIC, AddressClass::Public),
    ] {
        for address in addresses {
            assert_eq!(class(address), expected, "{address}");
        }
    }
}

#[test]
fn every_way_to_write_an_address_into_a_url_is_checked() {
    for url in [
        "http://169.254.169.254/latest/meta-data/",
        "http://0xa9fea9fe/",
        "http://2852039166/",
        "http://0251.0376.0251.0376/",
        "http://169.254.169.254./",
        "http://[::ffff:a9fe:a9fe]/",
        "http://[fe80::1]/",
        "http://0/",
    ] {
        let url = Url::parse(url).unwrap();
        for guard in [AddressGuard::PublicOnly, AddressGuard::PrivateAllowed] {
            assert!(guard.check_url(&url).is_err(), "{url}");
        }
    }
    for url in [
        "http://127.0.0.1/",
        "http://127.1/",
        "http://0x7f.0.0.1/",
        "http://2130706433/",
        "http://0177.0.0.1/",
        "http://[::1]:80/",
        "http://[::ffff:7f00:1]/",
    ] {
        let url = Url::parse(url).unwrap();
        assert!(AddressGuard::PublicOnly.check_url(&url).is_err(), "{url}");
        assert!(AddressGuard::PrivateAllowed.check_url(&url).is_ok());
    }
    for url in ["http://8.8.8.8/", "https://hooks.example/"] {
        let url = Url::parse(url).unwrap();
        assert_eq!(AddressGuard::PublicOnly.check_url(&url), Ok(()));
    }
}

#[test]
fn of_a_name_only_the_permitted_addresses_are_connected_to() {
    let at = |text: &str| SocketAddr::new(text.parse().unwrap(), 0);
    let (public, private, metadata) = (at("8.8.8.8"), at("10.0.0.1"), at("169.254.169.254"));
    let mixed = [private, public, metadata, at("::1")];
    let permitted = |guard: AddressGuard, addresses: &[SocketAddr]| {
        guard.permitted("x", addresses.iter().copied())
    };
    assert_eq!(
        permitted(AddressGuard::PublicOnly, &mixed),
        Ok(vec![public])
    );
    assert_eq!(
        permitted(AddressGuard::PrivateAllowed, &mixed),
        Ok(vec![private, public, at("::1")])
    );
    let refused = permitted(AddressGuard::PublicOnly, &[private]).unwrap_err();
    assert_eq!(
        (refused.address, refused.class),
        (private.ip(), AddressClass::Private)
    );
    let refused = permitted(AddressGuard::PrivateAllowed, &[metadata]).unwrap_err();
    assert!(refused.to_string().contains("never connected to"));
    assert_eq!(permitted(AddressGuard::PublicOnly, &[]), Ok(Vec::new()));
}

/// Every form of IPv6 by which a packet may come to an IPv4 address.
fn carriers(address: Ipv4Addr) -> Vec<Ipv6Addr> {
    let [a, b, c, d] = address.octets();
    let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    vec![
        address.to_ipv6_mapped(),
        Ipv6Addr::new(0, 0, 0, 0, 0, 0, high, low),
        Ipv6Addr::new(0, 0, 0, 0, 0xffff, 0, high, low),
        Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low),
        Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, high, low),
        Ipv6Addr::new(0x2002, high, low, 0, 0, 0, 0, 1),
        Ipv6Addr::new(0x2001, 0, 0x4136, 0xe378, 0x8000, 0x3fff, !high, !low),
        Ipv6Addr::new(0x2606, 0x4700, 0, 0, 0, 0x5efe, high, low),
        Ipv6Addr::new(0x2606, 0x4700, 0, 0, 0x200, 0x5efe, high, low),
    ]
}

proptest! {
    #[test]
    fn no_form_of_an_address_reaches_further_than_the_address_itself(address: u32) {
        let address = Ipv4Addr::from(address);
        let plain = AddressClass::of(address.into());
        for carrier in carriers(address) {
            let class = AddressClass::of(carrier.into());
            prop_assert!(class == plain || class == AddressClass::Never, "{carrier} {class:?}");
        }
    }

    #[test]
    fn link_local_and_metadata_addresses_are_never_reached(
        host in 0u16.., rest: [u16; 6], pick in 0usize..3
    ) {
        let [c, d] = host.to_be_bytes();
        let v4 = [Ipv4Addr::new(169, 254, c, d), METADATA_V4[pick], Ipv4Addr::new(224 + c % 32, d, c, d)];
        let [e, f, g, h, i, j] = rest;
        let v6 = [
            Ipv6Addr::new(0xfe80 | (host & 0x3f), e, f, g, h, i, j, host),
            Ipv6Addr::new(0xff00 | (host & 0xff), e, f, g, h, i, j, host),
            Ipv6Addr::new(0xfd00, 0xec2, e, f, g, h, i, j),
        ];
        let all = v4.into_iter().flat_map(|v4| carriers(v4).into_iter().map(IpAddr::V6).chain([v4.into()]));
        for address in all.chain(v6.map(IpAddr::V6)) {
            for guard in [AddressGuard::PublicOnly, AddressGuard::PrivateAllowed] {
                prop_assert!(guard.check("x", address).is_err(), "{address}");
            }
        }
    }

    #[test]
    fn what_only_public_addresses_allows_private_ones_allow_too(address: u128) {
        let address = IpAddr::V6(Ipv6Addr::from(address));
        if AddressGuard::PublicOnly.check("x", address).is_ok() {
            prop_assert!(AddressGuard::PrivateAllowed.check("x", address).is_ok());
        }
    }
}
