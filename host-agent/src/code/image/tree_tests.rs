//! Tests of `tree`: what layers make of each other, and what no layer can do.

use super::*;

fn file(number: usize) -> Node {
    Node::plain(What::File((0, number)), 0o644)
}

fn dir() -> Node {
    Node::implied()
}

fn link(target: &str) -> Node {
    Node { what: What::Link(target.into()), ..dir() }
}

/// What a layer does.
enum Step<'a> {
    Put(&'a str, Node),
    Hard(&'a str, &'a str),
    Hide(&'a str),
    Opaque(&'a str),
}
use Step::{Hard, Hide, Opaque, Put};

fn apply(layers: Vec<Vec<Step<'_>>>) -> Result<Tree, ImageRefusal> {
    let mut tree = Tree::default();
    for (index, layer) in layers.into_iter().enumerate() {
        tree.begin(index);
        for step in layer {
            match step {
                Put(path, node) => tree.put(path.as_bytes(), node)?,
                Hard(path, target) => tree.put_hard_link(path.as_bytes(), target.as_bytes())?,
                Hide(path) => tree.hide(path.as_bytes())?,
                Opaque(folder) => tree.hide_content(folder.as_bytes())?,
            }
        }
    }
    Ok(tree)
}

/// The paths that are left, folders with a slash, files with their number, links with their target.
fn check(layers: Vec<Vec<Step<'_>>>, expected: &[&str]) {
    let tree = apply(layers).unwrap();
    let shown = |(path, (_, node)): (&TreePath, &(usize, Node))| {
        let path = String::from_utf8_lossy(path);
        match &node.what {
            What::Dir => format!("{path}/"),
            What::Link(target) => format!("{path}->{}", String::from_utf8_lossy(target)),
            What::File((_, number)) => format!("{path}={number}"),
            What::Empty => format!("{path}="),
        }
    };
    assert_eq!(tree.nodes.iter().map(shown).collect::<Vec<_>>(), expected);
}

fn refused(layers: Vec<Vec<Step<'_>>>) -> String {
    apply(layers).expect_err("it was taken").to_string()
}

#[test]
fn a_later_layer_wins_and_folders_are_one() {
    check(
        vec![
            vec![Put("d", dir()), Put("d/a", file(1)), Put("d/b", file(2)), Put("e/x", file(3))],
            vec![Put("d/b", file(4)), Put("./d/c", file(5)), Put("/e", file(6))],
        ],
        &["d/", "d/a=1", "d/b=4", "d/c=5", "e=6"],
    );
    // A folder's own entry says its mode; what is in it stays.
    let closed = Node { mode: 0o700, uid: 7, ..dir() };
    let tree = apply(vec![vec![Put("d/a", file(1))], vec![Put("d/", closed.clone())]]).unwrap();
    assert_eq!(tree.nodes[&b"d".to_vec()].1, closed);
    assert!(tree.nodes.contains_key(b"d/a".as_slice()));
    // Whatever a layer says twice it says with its last word.
    check(vec![vec![Put("a", file(1)), Put("a", link("x")), Put("a", file(2))]], &["a=2"]);
}

#[test]
fn a_whiteout_hides_what_the_layers_below_have() {
    let below = || vec![Put("d/a", file(1)), Put("d/b/c", file(2)), Put("d/bb", file(3))];
    check(vec![below(), vec![Hide("d/a")]], &["d/", "d/b/", "d/b/c=2", "d/bb=3"]);
    check(vec![below(), vec![Hide("d/b")]], &["d/", "d/a=1", "d/bb=3"]);
    check(vec![below(), vec![Hide("d")]], &[]);
    check(vec![below(), vec![Hide("nowhere/a")]], &["d/", "d/a=1", "d/b/", "d/b/c=2", "d/bb=3"]);
    // Its own layer's it does not hide, in whichever order they come.
    check(vec![below(), vec![Hide("d"), Put("d/new", file(4))]], &["d/", "d/new=4"]);
    check(vec![below(), vec![Put("d/new", file(4)), Hide("d")]], &["d/", "d/new=4"]);
    check(vec![vec![Put("a", file(1)), Hide("a")]], &["a=1"]);
}

#[test]
fn an_opaque_folder_hides_its_content_below() {
    let below = || vec![Put("d/a", file(1)), Put("d/b/c", file(2)), Put("dd", file(3))];
    check(vec![below(), vec![Opaque("d")]], &["d/", "dd=3"]);
    check(vec![below(), vec![Put("d/new", file(4)), Opaque("d")]], &["d/", "d/new=4", "dd=3"]);
    check(vec![below(), vec![Opaque(""), Put("x", file(5))]], &["x=5"]);
    check(vec![below(), vec![Opaque("nowhere")]], &["d/", "d/a=1", "d/b/", "d/b/c=2", "dd=3"]);
}

#[test]
fn hard_links_are_of_what_is_there_then() {
    // Over layers, and what a later layer does to one name it does not do to the other.
    check(
        vec![vec![Put("a", file(1))], vec![Hard("b", "/a")], vec![Put("a", file(2))], vec![Hard("c", "a")]],
        &["a=2", "b=1", "c=2"],
    );
    check(vec![vec![Put("a", link("x")), Hard("b", "a")]], &["a->x", "b->x"]);
    assert!(refused(vec![vec![Hard("b", "a")]]).contains("hard link"));
    assert!(refused(vec![vec![Put("d", dir()), Hard("b", "d")]]).contains("hard link"));
    assert!(refused(vec![vec![Hard("b", "../a")]]).contains("climbs"));
    assert!(refused(vec![vec![Put("a", file(1))], vec![Hide("a"), Hard("b", "a")]]).contains("hard link"));
}

#[test]
fn what_leads_over_a_link_stays_in_the_tree() {
    // As where `/lib` is a link to `/usr/lib`.
    check(
        vec![vec![Put("usr/lib", dir()), Put("lib", link("usr/lib"))], vec![Put("lib/x", file(1))]],
        &["lib->usr/lib", "usr/", "usr/lib/", "usr/lib/x=1"],
    );
    check(
        vec![vec![Put("l", link("../../../../etc"))], vec![Put("l/passwd", file(1))]],
        &["etc/", "etc/passwd=1", "l->../../../../etc"],
    );
    check(vec![vec![Put("d/l", link("/")), Put("d/l/x", file(1))], vec![Hide("d/l/x")]], &["d/", "d/l->/"]);
    // What replaces a link is not written through it.
    check(vec![vec![Put("t", file(1)), Put("l", link("t"))], vec![Put("l", file(2))]], &["l=2", "t=1"]);
    check(
        vec![vec![Put("t/a", file(1)), Put("l", link("t"))], vec![Put("l", dir())]],
        &["l/", "t/", "t/a=1"],
    );
    assert!(refused(vec![vec![Put("l", link("l")), Put("l/x", file(1))]]).contains("too many links"));
    assert!(refused(vec![vec![Put("f", file(1)), Put("f/x", file(2))]]).contains("no folder"));
}

#[test]
fn a_path_is_one_of_the_tree() {
    for (path, why) in [
        ("../x", "climbs"),
        ("a/../../x", "climbs"),
        ("a/..", "climbs"),
        ("a\0b", "NUL"),
        (&*"n".repeat(256), "255 bytes"),
        (&*"n/".repeat(2100), "4095 bytes"),
    ] {
        let said = refused(vec![vec![Put(path, file(1))]]);
        assert!(said.contains(why), "{said}");
    }
    // The root is ours.
    check(vec![vec![Put("./", dir()), Put("/", dir()), Put("", dir())]], &[]);
}

#[test]
fn paths_and_names_are_bounded() {
    let mut tree = Tree { names_len: MAX_NAMES_LEN - 1, ..Tree::default() };
    assert!(tree.put(b"ab", file(1)).is_err());
    let mut tree = Tree::default();
    let all = (0..MAX_PATHS).try_for_each(|number| tree.put(format!("{number}").as_bytes(), file(number)));
    all.unwrap();
    assert!(tree.put(b"more", file(1)).unwrap_err().to_string().contains("paths"));
}

#[test]
fn where_the_platform_mounts_nothing_is_a_link() {
    let layers = vec![vec![
        Put("tmp", link("/")),
        Put("run", file(1)),
        Put("dev/sda", file(2)),
        Put("etc", link("../outside")),
        Put("proc", link("sys")),
    ]];
    let nodes = apply(layers).unwrap().finish().unwrap();
    for place in PLACES {
        assert_eq!(nodes[place.as_bytes()].what, What::Dir, "{place}");
    }
    for file in FILES {
        assert_eq!(nodes[file.as_bytes()].what, What::Empty, "{file}");
    }
    let layers = vec![vec![Put("etc/hosts", file(1)), Put("etc/hostname", link("/proc/version"))]];
    let nodes = apply(layers).unwrap().finish().unwrap();
    assert_eq!(nodes[&b"etc/hosts"[..]].what, What::File((0, 1)));
    assert_eq!(nodes[&b"etc/hostname"[..]].what, What::Empty);
}
