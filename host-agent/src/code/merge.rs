//! A function's code and its layers, rewritten as one tar: a folder for `/var/task` and one for `/opt`, in which layers lie over
//! each other in their order.
//!
//! Runs inside the first confined helper (`code::confined`) only, as `archive` does, whose rules hold for each zip. What is
//! more: all together may unpack to what one may, and have no more paths. A link is checked within its own zip: it climbs
//! at most to the root of `/opt`, whichever layer what it names is from.

use std::{
    collections::BTreeMap,
    io::{Read, Seek, Write},
};

use guest_protocol::{LAYERS_FOLDER, TASK_FOLDER};

use super::archive::{
    Kind, MAX_ENTRIES, MAX_UNZIPPED_LEN, Opened, Plan, Planned, Refusal, RepackError, append_dir, finish,
};

/// Every path of `/opt`, and the layer that it is of.
type Overlay = BTreeMap<String, (usize, Planned)>;

/// Rewrites code and layers as a tar.
///
/// # Errors
/// [`RepackError::Refused`] says what is wrong with one of the zips, or with all of them together.
pub(crate) fn merge<R: Read + Seek>(code: R, layers: Vec<R>, tar: impl Write) -> Result<(), RepackError> {
    let mut code = Opened::read(code)?;
    let mut opened = Vec::with_capacity(layers.len());
    let (mut len, mut paths) = (code.len, code.plan.len());
    for layer in layers {
        let layer = Opened::read(layer)?;
        len += layer.len;
        paths += layer.plan.len();
        if paths > MAX_ENTRIES {
            return Err(
                Refusal::Unusable(format!("code and layers have more than {MAX_ENTRIES} paths")).into()
            );
        }
        opened.push(layer);
    }
    if len > MAX_UNZIPPED_LEN {
        return Err(Refusal::TooLargeTogether(len).into());
    }
    let mut tar = tar::Builder::new(tar);
    append_dir(&mut tar, TASK_FOLDER)?;
    for (path, planned) in std::mem::take(&mut code.plan) {
        code.write(&mut tar, &format!("{TASK_FOLDER}/{path}"), &path, &planned)?;
    }
    append_dir(&mut tar, LAYERS_FOLDER)?;
    let mut overlay = Overlay::new();
    for (index, layer) in opened.iter_mut().enumerate() {
        put_over(&mut overlay, index, std::mem::take(&mut layer.plan));
    }
    for (path, (layer, planned)) in overlay {
        let name = format!("{LAYERS_FOLDER}/{path}");
        opened[layer].write(&mut tar, &name, &path, &planned)?;
    }
    finish(tar)
}

/// Puts a layer over those before it: what it has wins, and only folders are one with others of their name.
fn put_over(overlay: &mut Overlay, layer: usize, plan: Plan) {
    for (path, planned) in plan {
        let both_are_folders =
            |(_, below): &(usize, Planned)| (below.kind, planned.kind) == (Kind::Dir, Kind::Dir);
        match overlay.get(&path) {
            // A folder that only its content names says nothing of its own.
            Some(below) if both_are_folders(below) && planned.index.is_none() => continue,
            Some((_, below)) if below.kind == Kind::Dir && planned.kind != Kind::Dir => {
                let within = format!("{path}/");
                let hidden = overlay.range(within.clone()..).map(|(hidden, _)| hidden);
                let hidden: Vec<_> =
                    hidden.take_while(|hidden| hidden.starts_with(&within)).cloned().collect();
                for hidden in hidden {
                    overlay.remove(&hidden);
                }
            }
            _ => {}
        }
        overlay.insert(path, (layer, planned));
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::{
        super::archive::tests::{entries_of, patch_central, zip_of},
        *,
    };

    type Zip<'a> = &'a [(&'a str, u32, &'a [u8])];

    /// Paths with a mode and what they hold.
    fn merged(code: Zip<'_>, layers: &[Zip<'_>]) -> Vec<(String, u32, String)> {
        let layers = layers.iter().map(|layer| Cursor::new(zip_of(layer))).collect();
        let mut tar = Vec::new();
        merge(Cursor::new(zip_of(code)), layers, &mut tar).unwrap();
        let text = |content: Vec<u8>| String::from_utf8(content).unwrap();
        entries_of(&tar).into_iter().map(|(path, mode, content)| (path, mode, text(content))).collect()
    }

    /// Those of them that are below `/opt`.
    fn opt(layers: &[Zip<'_>]) -> Vec<(String, String)> {
        let all = merged(&[("index.py", 0o100_644, b"x")], layers);
        all.into_iter()
            .filter_map(|(path, _, content)| Some((path.strip_prefix("opt/")?.to_owned(), content)))
            .collect()
    }

    fn check(layers: &[Zip<'_>], expected: &[(&str, &str)]) {
        let expected: Vec<_> =
            expected.iter().map(|(path, content)| ((*path).to_owned(), (*content).to_owned())).collect();
        assert_eq!(opt(layers), expected);
    }

    #[test]
    fn code_and_layers_have_a_folder_each() {
        let all = merged(&[("index.py", 0o100_644, b"x")], &[&[("bin/run", 0o100_700, b"#!")]]);
        let expected = [
            ("task", 0o755, ""),
            ("task/index.py", 0o644, "x"),
            ("opt", 0o755, ""),
            ("opt/bin", 0o755, ""),
            ("opt/bin/run", 0o755, "#!"),
        ];
        assert_eq!(all, expected.map(|(path, mode, content)| (path.to_owned(), mode, content.to_owned())));
    }

    #[test]
    fn a_later_layer_wins() {
        check(
            &[
                &[("d/a", 0, b"1"), ("d/b", 0, b"1"), ("only", 0, b"1")],
                &[("d/b", 0, b"2"), ("d/c", 0, b"2")],
                &[("d/c", 0, b"3")],
            ],
            &[("d", ""), ("d/a", "1"), ("d/b", "2"), ("d/c", "3"), ("only", "1")],
        );
    }

    #[test]
    fn what_a_path_is_may_change_from_layer_to_layer() {
        // A file over a folder hides all that is in it, and nothing beside it.
        check(
            &[&[("d/a/b", 0, b"1"), ("d-beside", 0, b"1"), ("d0", 0, b"1")], &[("d", 0, b"2")]],
            &[("d", "2"), ("d-beside", "1"), ("d0", "1")],
        );
        check(&[&[("d", 0, b"1")], &[("d/a", 0, b"2")]], &[("d", ""), ("d/a", "2")]);
        check(
            &[&[("d", 0o120_777, b"e"), ("e/a", 0, b"1")], &[("d/b", 0, b"2")]],
            &[("d", ""), ("d/b", "2"), ("e", ""), ("e/a", "1")],
        );
        check(&[&[("d/a", 0, b"1")], &[("d", 0, b"2")], &[("d/b", 0, b"3")]], &[("d", ""), ("d/b", "3")]);
    }

    #[test]
    fn a_folder_that_is_named_says_its_mode() {
        let mode = |layers: &[Zip<'_>]| {
            let all = merged(&[("x", 0, b"x")], layers);
            all.into_iter().find(|(path, ..)| path == "opt/d").unwrap().1
        };
        let (open, implied): (Zip<'_>, Zip<'_>) = (&[("d/", 0o040_777, b"")], &[("d/a", 0, b"1")]);
        assert_eq!((mode(&[open, implied]), mode(&[implied, open])), (0o777, 0o777));
    }

    fn refused(code: Vec<u8>, layers: Vec<Vec<u8>>) -> Refusal {
        let layers = layers.into_iter().map(Cursor::new).collect();
        match merge(Cursor::new(code), layers, std::io::sink()) {
            Err(RepackError::Refused(refusal)) => refusal,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn together_they_may_unpack_to_what_one_may() {
        let declared =
            |len: u32| patch_central(zip_of(&[("a", 0o100_644, &[7; 1000])]), 24, &len.to_le_bytes());
        let half = (MAX_UNZIPPED_LEN / 2) as u32;
        let together = refused(declared(half), vec![declared(half), declared(1)]);
        assert_eq!(together, Refusal::TooLargeTogether(MAX_UNZIPPED_LEN + 1));
        let alone = refused(declared(1), vec![declared(MAX_UNZIPPED_LEN as u32 + 1)]);
        assert_eq!(alone, Refusal::TooLarge);
    }

    #[test]
    fn each_is_held_to_the_rules_of_all() {
        let good = || zip_of(&[("a", 0, b"x")]);
        for bad in [
            b"no zip".to_vec(),
            zip_of(&[("l", 0o120_777, b"/etc/passwd")]),
            zip_of(&[("d/l", 0o120_777, b"../../task/index.py")]),
            patch_central(good(), 16, &[1, 2, 3, 4]),
        ] {
            assert!(matches!(refused(good(), vec![good(), bad.clone()]), Refusal::Unusable(_)));
            assert!(matches!(refused(bad, vec![good()]), Refusal::Unusable(_)));
        }
    }
}
