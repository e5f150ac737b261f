//! Header names and the encoding of their values: CloudEvents 1.0, NATS binding, binary mode.

/// The id of the event.
pub const ID: &str = "ce-id";
/// The process that published it.
pub const SOURCE: &str = "ce-source";
/// The full name of its protobuf message.
pub const TYPE: &str = "ce-type";
/// When it happened, RFC 3339.
pub const TIME: &str = "ce-time";
/// Always `1.0`.
pub const SPEC_VERSION: &str = "ce-specversion";
/// Always `application/protobuf`.
pub const CONTENT_TYPE: &str = "ce-datacontenttype";
/// The id of the event or command that caused it.
pub const CAUSATION_ID: &str = "ce-causationid";
/// The id of the first event of the chain.
pub const CORRELATION_ID: &str = "ce-correlationid";

/// Percent-encodes a value: space, `"`, `%` and everything that is not printable ASCII.
#[must_use]
pub fn encode(value: &str) -> String {
    let mut encoded = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_graphic() && byte != b'"' && byte != b'%' {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// Decodes a value, unless it is not UTF-8.
#[must_use]
pub fn decode(value: &str) -> Option<String> {
    let mut bytes = value.bytes();
    let mut decoded = Vec::with_capacity(value.len());
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let high = char::from(bytes.next()?).to_digit(16)?;
            let low = char::from(bytes.next()?).to_digit(16)?;
            decoded.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            decoded.push(byte);
        }
    }
    String::from_utf8(decoded).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn values_read_back_and_hold_no_line_break(value in ".*") {
            let encoded = encode(&value);
            prop_assert!(encoded.bytes().all(|b| b.is_ascii_graphic()));
            prop_assert_eq!(decode(&encoded), Some(value));
        }
    }
}
