//! Names that a stack's things have on the node, and the tags that say what is whose.

use sha2::{Digest as _, Sha256};

/// Tag with the stack that made a function.
pub(crate) const STACK: &str = "tinderbox:stack";

/// Tag with the logical id of the function.
pub(crate) const LOGICAL_ID: &str = "tinderbox:logical-id";

/// What all tags of ours begin with.
pub(crate) const OURS: &str = "tinderbox:";

/// Longest name of an alias: it is part of a tag's, which is read back.
pub(crate) const MAX_ALIAS_LEN: usize = 64;

/// Characters of the hash in a name, as CloudFormation has them.
const HASH_LEN: usize = 12;

/// Letters and digits of a hash: 32 of them, so that five bits are one.
const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// `STACK-LogicalId-HASH`, of `longest` characters at most: the parts before the hash are cut to fit. The hash is of stack and logical id,
/// so that the name is always the same one.
pub(crate) fn physical(stack: &str, id: &str, longest: usize) -> String {
    let room = longest.saturating_sub(HASH_LEN + 2);
    let id = cut(id, room.saturating_sub(stack.len().min(room / 2)));
    let stack = cut(stack, room - id.len());
    format!("{stack}-{id}-{}", hash(&[stack, id]))
}

/// The name of a statement: another one when what it says is another one.
pub(crate) fn statement(stack: &str, id: &str, content: &str) -> String {
    format!("{}{}", statement_start(stack, id), hash(&[stack, id, content]))
}

/// What the names of a logical id's statements begin with.
pub(crate) fn statement_start(stack: &str, id: &str) -> String {
    format!("{}-{}-", cut(stack, 40), cut(id, 40))
}

/// Whether a statement's name is one of the stack's.
pub(crate) fn is_statement_of(stack: &str, sid: &str) -> bool {
    let rest = sid.strip_prefix(cut(stack, 40)).and_then(|rest| rest.strip_prefix('-'));
    let hash = rest.and_then(|rest| rest.rsplit_once('-')).map(|(_, hash)| hash);
    hash.is_some_and(|hash| hash.len() == HASH_LEN && hash.bytes().all(|byte| ALPHABET.contains(&byte)))
}

/// The tag of something that a function has: `tinderbox:alias:live`, `tinderbox:url` where there is no qualifier. Its value is the logical id.
pub(crate) fn tag(what: &str, qualifier: &str) -> String {
    let mut tag = format!("{OURS}{what}");
    if qualifier.len() > MAX_ALIAS_LEN {
        tag += &format!(":{}-{}", cut(qualifier, MAX_ALIAS_LEN), hash(&[qualifier]));
    } else if !qualifier.is_empty() && qualifier != "$LATEST" {
        tag += &format!(":{qualifier}");
    }
    tag
}

/// As much of a logical id as a tag's value has room for.
pub(crate) fn tag_value(id: &str) -> &str {
    cut(id, 255)
}

/// A folder's name as a stack's: letters, digits and hyphens, a letter first, 128 at most.
pub(crate) fn stack_of(folder: &str) -> Option<String> {
    let plain = |char: char| if char.is_ascii_alphanumeric() { char } else { '-' };
    let name: String = folder.chars().map(plain).skip_while(|char| !char.is_ascii_alphabetic()).collect();
    let name = cut(&name, 128).trim_end_matches('-').to_owned();
    (!name.is_empty()).then_some(name)
}

/// Whether a stack may be called so.
pub(crate) fn is_stack(name: &str) -> bool {
    stack_of(name).as_deref() == Some(name)
}

fn cut(text: &str, longest: usize) -> &str {
    text.get(..longest).unwrap_or(text)
}

fn hash(parts: &[&str]) -> String {
    let digest = Sha256::digest(parts.join("\0"));
    digest.iter().take(HASH_LEN).map(|byte| char::from(ALPHABET[usize::from(byte & 31)])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_of_its_stack_and_its_logical_id() {
        let name = physical("shop", "Greeter", 64);
        assert!(
            name.starts_with("shop-Greeter-") && name.len() == "shop-Greeter-".len() + HASH_LEN,
            "{name}"
        );
        assert_eq!(name, physical("shop", "Greeter", 64));
        assert_ne!(name, physical("shop2", "Greeter", 64));
        for (stack, id) in
            [("s".repeat(128), "I".repeat(255)), ("s".into(), "I".repeat(255)), ("s".repeat(128), "I".into())]
        {
            let name = physical(&stack, &id, 64);
            assert!(name.len() <= 64 && name.starts_with('s') && name.contains("-I"), "{name}");
        }
    }

    #[test]
    fn a_statement_is_known_by_its_name() {
        let sid = statement("shop", "Open", "{}");
        assert!(is_statement_of("shop", &sid) && sid.len() <= 100);
        assert_ne!(sid, statement("shop", "Open", "{ }"));
        for other in ["open", "shop-x", "shop-Open-short", "other-Open-ABCDEFGHIJKL"] {
            assert!(!is_statement_of("shop", other), "{other}");
        }
    }

    #[test]
    fn tags_name_what_a_function_has() {
        assert_eq!(tag("alias", "live"), "tinderbox:alias:live");
        assert_eq!(tag("url", "$LATEST"), "tinderbox:url");
        assert!(tag("alias", &"a".repeat(128)).len() <= 128);
    }

    #[test]
    fn a_folder_names_a_stack() {
        assert_eq!(stack_of("my_app 2").as_deref(), Some("my-app-2"));
        assert_eq!(stack_of("2nd").as_deref(), Some("nd"));
        assert_eq!(stack_of("--"), None);
        assert!(is_stack("GreeterStack") && !is_stack("a_b") && !is_stack(""));
    }
}
