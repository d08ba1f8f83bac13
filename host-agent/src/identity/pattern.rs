//! IAM's patterns: `*` is any text, `?` any one character.

/// Whether a text is as a pattern says. Takes time in proportion to both lengths multiplied, whatever they are.
pub(super) fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut at, mut seen) = (0, 0);
    // After the last `*`, and how much of the text that has taken.
    let mut star: Option<(usize, usize)> = None;
    while seen < text.len() {
        match pattern.get(at) {
            Some('*') => {
                at += 1;
                star = Some((at, seen));
            }
            Some(&wanted) if wanted == '?' || wanted == text[seen] => {
                at += 1;
                seen += 1;
            }
            _ => {
                let Some((after, taken)) = star else { return false };
                star = Some((after, taken + 1));
                (at, seen) = (after, taken + 1);
            }
        }
    }
    pattern[at..].iter().all(|&rest| rest == '*')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition, which takes exponential time.
    fn defined(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern.split_first(), text.split_first()) {
            (None, None) => true,
            (Some((b'*', rest)), _) => (0..=text.len()).any(|taken| defined(rest, &text[taken..])),
            (Some((wanted, pattern)), Some((found, text))) => {
                (*wanted == b'?' || wanted == found) && defined(pattern, text)
            }
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn a_pattern_matches_what_its_definition_says(pattern in "[ab*?]{0,8}", text in "[ab]{0,8}") {
            prop_assert_eq!(matches(&pattern, &text), defined(pattern.as_bytes(), text.as_bytes()));
        }

        #[test]
        fn a_text_matches_itself_and_its_beginning_with_a_star(text in "[a-zA-Z0-9:$_-]{1,40}", cut in 0..40usize) {
            let cut = cut.min(text.len());
            let begins = format!("{}*", &text[..cut]);
            prop_assert!(matches(&text, &text) && matches(&begins, &text) && matches("*", &text));
            let longer = format!("{text}x");
            prop_assert!(!matches(&text, &longer));
        }
    }

    #[test]
    fn many_stars_take_no_time() {
        assert!(!matches(&format!("{}b", "*a".repeat(1000)), &"a".repeat(4000)));
    }
}
