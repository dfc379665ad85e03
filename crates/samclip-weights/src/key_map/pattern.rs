//! Name patterns: dot-separated segments, `#` for a number, `*` for any run of segments, first or last.

/// Matches `name` against `from` and fills the captures into `to`; `None` when it does not match.
pub(super) fn rewrite(from: &str, to: &str, name: &str) -> Option<String> {
    let (rest, middle) = captures(from, name)?;
    let mut numbers = middle.into_iter();
    let mut out = String::with_capacity(name.len() + 16);
    for (i, segment) in to.split('.').enumerate() {
        if i > 0 {
            out.push('.');
        }
        match segment {
            "#" => out.push_str(numbers.next()?),
            "*" => out.push_str(rest),
            literal => out.push_str(literal),
        }
    }
    Some(out)
}

/// What `*` and the `#`s stand for.
fn captures<'n>(pattern: &str, name: &'n str) -> Option<(&'n str, Vec<&'n str>)> {
    if pattern == "*" {
        return Some((name, Vec::new()));
    }
    if let Some(tail) = pattern.strip_prefix("*.") {
        let rest = name.strip_suffix(tail)?.strip_suffix('.')?;
        return Some((rest, Vec::new()));
    }
    let (head, open) = match pattern.strip_suffix(".*") {
        Some(head) => (head, true),
        None => (pattern, false),
    };
    let mut numbers = Vec::new();
    let mut rest = Some(name);
    for expected in head.split('.') {
        let left = rest?;
        let (segment, after) = left.split_once('.').map_or((left, None), |(s, a)| (s, Some(a)));
        match expected {
            "#" if !segment.is_empty() && segment.bytes().all(|b| b.is_ascii_digit()) => {
                numbers.push(segment)
            }
            literal if literal == segment => {}
            _ => return None,
        }
        rest = after;
    }
    match (open, rest) {
        (true, Some(rest)) => Some((rest, numbers)),
        (false, None) => Some(("", numbers)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::rewrite;

    #[test]
    fn patterns() {
        let cases = [
            ("a.#.b.*", "x.#.y.*", "a.12.b.c.d", Some("x.12.y.c.d")),
            ("a.#.b.*", "x.#.y.*", "a.12.b", None),
            ("a.#.b.*", "x.#.y.*", "a.one.b.c", None),
            ("a.#.#", "#.#.z", "a.3.4", Some("3.4.z")),
            ("a.b", "c", "a.b", Some("c")),
            ("a.b", "c", "a.b.c", None),
            ("a.b", "c", "a", None),
            ("*", "*", "any.thing", Some("any.thing")),
            ("*.num", "", "a.b.num", Some("")),
            ("*.num", "", "num", None),
            ("*.num", "", "a.xnum", None),
        ];
        for (from, to, name, expected) in cases {
            assert_eq!(rewrite(from, to, name).as_deref(), expected, "{from} on {name}");
        }
    }
}
