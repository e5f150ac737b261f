//! The proxy in front of something that sends back what it gets.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use super::{Cut, Faults, Garbage, Proxy, Silence};
use crate::wait_for;

/// Sends back what it gets, to everybody.
fn echo() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let mut buffer = [0; 4_096];
                while let Ok(read @ 1..) = stream.read(&mut buffer) {
                    if stream.write_all(&buffer[..read]).is_err() {
                        return;
                    }
                }
            });
        }
    });
    host
}

fn connect(proxy: &Proxy) -> TcpStream {
    let stream = TcpStream::connect(&proxy.host).unwrap();
    let limit = Some(Duration::from_secs(5));
    stream.set_read_timeout(limit).unwrap();
    stream
}

/// Sends bytes and returns what comes back, up to as many.
fn ask(stream: &mut TcpStream, sent: &[u8]) -> std::io::Result<Vec<u8>> {
    stream.write_all(sent)?;
    let mut got = vec![0; sent.len()];
    let mut at = 0;
    while at < got.len() {
        match stream.read(&mut got[at..])? {
            0 => break,
            read => at += read,
        }
    }
    got.truncate(at);
    Ok(got)
}

#[test]
fn without_faults_everything_passes_and_ends_in_order() {
    let proxy = Proxy::between(&echo());
    let mut stream = connect(&proxy);
    let sent = vec![7; 100_000];
    assert_eq!(ask(&mut stream, &sent).unwrap(), sent);
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    assert_eq!(proxy.accepted(), 1);
    assert_eq!(proxy.bytes(), 200_000);
}

#[test]
fn latency_and_bandwidth_take_their_time_on_open_connections_too() {
    let proxy = Proxy::between(&echo());
    let mut stream = connect(&proxy);
    let mut took = |faults: Faults, size: usize| {
        proxy.set(faults);
        let start = Instant::now();
        ask(&mut stream, &vec![1; size]).unwrap();
        start.elapsed()
    };
    assert!(took(Faults::default(), 10) < Duration::from_millis(300));
    let latency = Duration::from_millis(150);
    let slow = Faults {
        latency,
        ..Faults::default()
    };
    assert!(took(slow, 10) >= 2 * latency);
    let narrow = Faults {
        bytes_per_second: Some(10_000),
        ..Faults::default()
    };
    assert!(took(narrow, 3_000) >= Duration::from_millis(300));
    assert!(took(Faults::default(), 10) < Duration::from_millis(300));
}

#[test]
fn every_third_connection_is_cut_at_once_or_after_its_bytes() {
    for after in [0, 5] {
        let proxy = Proxy::between(&echo());
        proxy.set(Faults {
            cut: Some(Cut { every: 3, after }),
            ..Faults::default()
        });
        for number in 1..=6 {
            let answer = ask(&mut connect(&proxy), b"0123456789");
            let whole = answer.as_deref().is_ok_and(|got| got == b"0123456789");
            assert_eq!(whole, number % 3 != 0, "connection {number}: {answer:?}");
        }
    }
}

#[test]
fn what_is_open_is_cut_and_later_connections_pass() {
    let proxy = Proxy::between(&echo());
    let mut stream = connect(&proxy);
    assert_eq!(ask(&mut stream, b"a").unwrap(), b"a");
    proxy.cut();
    let error = stream.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_eq!(ask(&mut connect(&proxy), b"b").unwrap(), b"b");
}

#[test]
fn a_stalled_connection_goes_on_and_one_that_swallows_has_lost_what_it_took() {
    for (silence, arrives) in [(Silence::Stall, true), (Silence::Swallow, false)] {
        let proxy = Proxy::between(&echo());
        let mut stream = connect(&proxy);
        assert_eq!(ask(&mut stream, b"a").unwrap(), b"a");
        proxy.set(Faults {
            silence: Some(silence),
            ..Faults::default()
        });
        let quiet = Some(Duration::from_millis(300));
        stream.set_read_timeout(quiet).unwrap();
        let error = ask(&mut stream, b"b").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock, "{silence:?}");
        let mut another = connect(&proxy);
        another.set_read_timeout(quiet).unwrap();
        assert!(ask(&mut another, b"c").is_err(), "a new one is as silent");
        proxy.heal();
        let mut got = [0];
        let read = stream.read_exact(&mut got);
        assert_eq!(read.is_ok() && got == *b"b", arrives, "{silence:?}");
    }
}

#[test]
fn garbage_changes_or_adds_one_byte_in_so_many() {
    let proxy = Proxy::between(&echo());
    let mut stream = connect(&proxy);
    let mut got = |garbage| {
        proxy.set(Faults {
            garbage: Some(garbage),
            ..Faults::default()
        });
        ask(&mut stream, &[0; 10]).unwrap()
    };
    let flipped = got(Garbage::Flip(5));
    assert_eq!(flipped.iter().filter(|byte| **byte != 0).count(), 2);
    assert!(got(Garbage::Insert(4)).contains(&0xff));
}

#[test]
fn a_refusing_proxy_has_no_port_until_it_heals_and_can_lead_elsewhere() {
    let proxy = Proxy::between("127.0.0.1:9");
    assert!(
        ask(&mut connect(&proxy), b"a").is_err(),
        "nobody is behind it"
    );
    proxy.retarget(&echo());
    assert_eq!(ask(&mut connect(&proxy), b"a").unwrap(), b"a");
    proxy.set(Faults {
        refuse: true,
        ..Faults::default()
    });
    wait_for("the port to close", 5, || {
        let refused = TcpStream::connect(&proxy.host).err()?;
        (refused.kind() == ErrorKind::ConnectionRefused).then_some(())
    });
    proxy.heal();
    wait_for("the port to open", 5, || {
        TcpStream::connect(&proxy.host).is_ok().then_some(())
    });
    assert_eq!(ask(&mut connect(&proxy), b"b").unwrap(), b"b");
}
