//! Patterns over tensor names: `*` stands for any run of characters.

/// Whether `name` matches `pattern` as a whole.
pub fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|head| name.strip_prefix(head)) else {
        return false;
    };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    true
}

/// Whether `name` matches one of `patterns`; a pattern that begins with `!` takes
/// back what earlier ones gave.
pub fn any(patterns: &[String], name: &str) -> bool {
    patterns.iter().fold(false, |given, pattern| match pattern.strip_prefix('!') {
        Some(pattern) => given && !matches(pattern, name),
        None => given || matches(pattern, name),
    })
}

#[cfg(test)]
mod tests {
    use super::{any, matches};

    #[test]
    fn patterns_match_whole_names() {
        assert!(matches("*", "image_encoder.pos_embed"));
        assert!(matches("image_encoder.*", "image_encoder.pos_embed"));
        assert!(!matches("image_encoder", "image_encoder.pos_embed"));
        assert!(matches("*.blocks.*.weight", "image_encoder.blocks.1.norm1.weight"));
        assert!(!matches("*.blocks.*.weight", "image_encoder.blocks.1.norm1.bias"));
        assert!(matches("a*b*b", "abb") && !matches("a*b*b", "ab"));
    }

    #[test]
    fn an_exclamation_mark_takes_back() {
        let patterns = ["*".to_owned(), "!mask_decoder.*".to_owned()];
        assert!(any(&patterns, "clip_head.mlp.0.weight"));
        assert!(!any(&patterns, "mask_decoder.iou_token.weight"));
    }
}
