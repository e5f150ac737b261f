//! Subject patterns of NATS: `*` matches one token, `>` all that follow.

/// Says whether every subject that matches `narrow` also matches `wide`.
///
/// Tokens are compared one by one, as in the server.
pub(crate) fn covers(wide: &str, narrow: &str) -> bool {
    let (mut wide, mut narrow) = (wide.split('.'), narrow.split('.'));
    loop {
        match (wide.next(), narrow.next()) {
            (Some(">"), Some(_)) | (None, None) => return true,
            (Some("*"), Some(token)) if token != ">" => {}
            (Some(token), Some(other)) if token == other => {}
            _ => return false,
        }
    }
}

/// Says whether some subject matches both patterns.
pub(crate) fn overlaps(one: &str, other: &str) -> bool {
    let (mut one, mut other) = (one.split('.'), other.split('.'));
    loop {
        match (one.next(), other.next()) {
            (Some(">"), Some(_)) | (Some(_), Some(">")) | (None, None) => return true,
            (Some(a), Some(b)) if a == b || a == "*" || b == "*" => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_covers_narrower_ones() {
        for (wide, narrow) in [
            ("a.>", "a.b"),
            ("a.>", "a.b.>"),
            ("a.*", "a.b"),
            ("a.*", "a.*"),
            (">", "a"),
        ] {
            assert!(covers(wide, narrow), "{wide} {narrow}");
        }
        for (wide, narrow) in [
            ("a.b", "a.*"),
            ("a.*", "a.>"),
            ("a.>", "a"),
            ("a.*", "a.b.c"),
            ("a.b", "a.b.c"),
        ] {
            assert!(!covers(wide, narrow), "{wide} {narrow}");
        }
    }

    #[test]
    fn patterns_overlap_where_some_subject_matches_both() {
        for (one, other) in [
            ("sluice.v1.>", "sluice.v1.tag.pulled.>"),
            ("sluice.v1.*.*.hub.a", "sluice.v1.tag.pulled.>"),
            ("sluice.v1.tag.pulled.hub.a", "sluice.v1.tag.pulled.>"),
            ("a.*.c", "a.b.*"),
            (">", "a"),
        ] {
            assert!(
                overlaps(one, other) && overlaps(other, one),
                "{one} {other}"
            );
        }
        for (one, other) in [
            ("sluice.v1.image.>", "sluice.v1.tag.pulled.>"),
            ("sluice.v1.tag.pulled", "sluice.v1.tag.pulled.>"),
            ("a.b", "a"),
        ] {
            assert!(
                !overlaps(one, other) && !overlaps(other, one),
                "{one} {other}"
            );
        }
    }
}
