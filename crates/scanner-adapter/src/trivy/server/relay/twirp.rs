//! Reads and replaces single fields of the messages between Trivy's client and server. Pure.
//!
//! A message is a list of fields in the encoding of protobuf; all other fields keep their bytes.

use thiserror::Error;

/// A message that is not a list of fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the message is not in the encoding of protobuf")]
pub(crate) struct Malformed;

/// One field of a message.
#[derive(Debug, Clone, Copy)]
struct Field<'a> {
    number: u64,
    /// The value of a text, of bytes or of a message.
    value: Option<&'a [u8]>,
    /// All bytes of the field.
    raw: &'a [u8],
}

/// Returns the texts of a field in their order.
pub(crate) fn texts(message: &[u8], number: u64) -> Result<Vec<String>, Malformed> {
    let mut texts = Vec::new();
    for field in fields(message)? {
        if field.number == number {
            let text = std::str::from_utf8(field.value.ok_or(Malformed)?).map_err(|_| Malformed)?;
            texts.push(text.to_owned());
        }
    }
    Ok(texts)
}

/// Returns the only text of a field.
pub(crate) fn text(message: &[u8], number: u64) -> Result<String, Malformed> {
    let mut texts = texts(message, number)?;
    match texts.pop() {
        Some(text) if texts.is_empty() => Ok(text),
        _ => Err(Malformed),
    }
}

/// Replaces all texts of some fields.
pub(crate) fn replace_texts(
    message: &[u8],
    replacements: &[(u64, Vec<String>)],
) -> Result<Vec<u8>, Malformed> {
    let mut bytes = Vec::with_capacity(message.len());
    for field in fields(message)? {
        if replacements
            .iter()
            .all(|(number, _)| *number != field.number)
        {
            bytes.extend_from_slice(field.raw);
        }
    }
    for (number, texts) in replacements {
        for text in texts {
            put_text(&mut bytes, *number, text);
        }
    }
    Ok(bytes)
}

/// Adds a boolean, which is omitted where it is false.
pub(crate) fn put_flag(message: &mut Vec<u8>, number: u64, flag: bool) {
    if flag {
        put_number(message, number << 3);
        message.push(1);
    }
}

/// Adds a text.
pub(crate) fn put_text(message: &mut Vec<u8>, number: u64, text: &str) {
    put_number(message, (number << 3) | 2);
    put_number(message, u64::try_from(text.len()).unwrap_or(u64::MAX));
    message.extend_from_slice(text.as_bytes());
}

fn put_number(message: &mut Vec<u8>, mut number: u64) {
    loop {
        let [low, ..] = number.to_le_bytes();
        number >>= 7;
        if number == 0 {
            message.push(low & 0x7f);
            return;
        }
        message.push(low | 0x80);
    }
}

fn fields(message: &[u8]) -> Result<Vec<Field<'_>>, Malformed> {
    let mut fields = Vec::new();
    let mut rest = message;
    while !rest.is_empty() {
        let begin = rest;
        let key = take_number(&mut rest)?;
        let value = match key & 7 {
            0 => {
                take_number(&mut rest)?;
                None
            }
            1 => {
                take(&mut rest, 8)?;
                None
            }
            2 => {
                let length = take_number(&mut rest)?;
                Some(take(&mut rest, length)?)
            }
            5 => {
                take(&mut rest, 4)?;
                None
            }
            _ => return Err(Malformed),
        };
        let used = begin.len() - rest.len();
        fields.push(Field {
            number: key >> 3,
            value,
            raw: begin.get(..used).ok_or(Malformed)?,
        });
    }
    Ok(fields)
}

fn take<'a>(rest: &mut &'a [u8], length: u64) -> Result<&'a [u8], Malformed> {
    let length = usize::try_from(length).map_err(|_| Malformed)?;
    let (taken, remaining) = rest.split_at_checked(length).ok_or(Malformed)?;
    *rest = remaining;
    Ok(taken)
}

fn take_number(rest: &mut &[u8]) -> Result<u64, Malformed> {
    let mut number = 0;
    for shift in (0..70).step_by(7) {
        let (byte, remaining) = rest.split_first().ok_or(Malformed)?;
        *rest = remaining;
        let bits = u64::from(byte & 0x7f);
        let shifted = bits.checked_shl(shift).filter(|all| all >> shift == bits);
        number |= shifted.ok_or(Malformed)?;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(Malformed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As a client of Trivy 0.59.1 sent it.
    const PUT_BLOB: &[u8] = b"\n\x03abc\x1a\x06\x08\x02\x12\x02hi";

    #[test]
    fn a_field_is_replaced_and_all_others_stay() {
        assert_eq!(text(PUT_BLOB, 1).unwrap(), "abc");
        let other = replace_texts(PUT_BLOB, &[(1, vec!["x".to_owned()])]).unwrap();
        assert_eq!(other, b"\x1a\x06\x08\x02\x12\x02hi\n\x01x");
        assert_eq!(text(&other, 1).unwrap(), "x");
        assert_eq!(texts(&other, 2).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn a_message_that_is_cut_off_or_malformed_is_refused() {
        for length in 1..PUT_BLOB.len() {
            if length != 5 {
                assert_eq!(texts(&PUT_BLOB[..length], 1), Err(Malformed), "{length}");
            }
        }
        for wrong in [b"\x0b".as_slice(), &[0xff; 11], b"\n\x01\xff"] {
            assert_eq!(texts(wrong, 1), Err(Malformed), "{wrong:?}");
        }
        // One text is expected, and there are two.
        assert_eq!(text(b"\n\x01a\n\x01b", 1), Err(Malformed));
        assert_eq!(text(b"", 1), Err(Malformed));
    }

    proptest! {
        #[test]
        fn texts_that_are_written_are_read_again(list in proptest::collection::vec((1..2000_u64, ".{0,40}"), 0..8)) {
            let mut message = Vec::new();
            for (number, value) in &list {
                put_text(&mut message, *number, value);
                put_flag(&mut message, *number + 2000, true);
            }
            for (number, _) in &list {
                let expected: Vec<_> = list.iter().filter(|(other, _)| other == number).map(|(_, text)| text.clone()).collect();
                prop_assert_eq!(texts(&message, *number).unwrap(), expected);
            }
            prop_assert_eq!(replace_texts(&message, &[]).unwrap(), message);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(same) = replace_texts(&bytes, &[]) {
                prop_assert_eq!(same, bytes);
            }
        }
    }
}
