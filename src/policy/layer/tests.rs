//! Layers as builders write them, and as an attacker would.

use std::io::{Read, Write as _};

use flate2::{Compression, write::GzEncoder};
use tar::{Builder, EntryType, Header};

use super::*;

fn header(kind: EntryType, path: &str, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    let name = &mut header.as_old_mut().name;
    name[..path.len()].copy_from_slice(path.as_bytes());
    header.set_mode(mode);
    header.set_size(size);
    header.set_cksum();
    header
}

/// A tar of these entries, with whatever paths.
fn tar(entries: &[(EntryType, &str, u32, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (kind, path, mode, content) in entries {
        bytes.extend_from_slice(header(*kind, path, *mode, content.len() as u64).as_bytes());
        bytes.extend_from_slice(content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

fn file<'a>(path: &'a str, mode: u32, content: &'a str) -> (EntryType, &'a str, u32, &'a [u8]) {
    (EntryType::Regular, path, mode, content.as_bytes())
}

fn look(bytes: &[u8]) -> LayerFacts {
    scan(bytes, Bounds::default(), &|| true)
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

fn zstandard(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

fn problems(facts: &LayerFacts) -> Vec<Problem> {
    facts.problems.iter().copied().collect()
}

#[test]
fn a_layer_is_read_in_any_compression_and_in_many_frames() {
    let tar = tar(&[file("./usr/bin/su", 0o4755, "x"), file("/bin/sh", 0o755, "x"), file("app/.wh.old", 0o644, "")]);
    let (first, second) = tar.split_at(700);
    let skipped =
        [&b"\x50\x2a\x4d\x18\x04\0\0\0abcd"[..], &zstandard(first), b"\x5f\x2a\x4d\x18\0\0\0\0", &zstandard(second)];
    let layers = [tar.clone(), gzip(&tar), [gzip(first), gzip(second)].concat(), zstandard(&tar), skipped.concat()];
    for (number, layer) in layers.iter().enumerate() {
        let found = look(layer);
        assert_eq!(problems(&found), [], "{number}");
        assert_eq!(
            (found.setuid, found.removed),
            (vec!["usr/bin/su".to_owned()], vec!["app/old".to_owned()]),
            "{number}"
        );
        assert_eq!(found.tools, [Tool { kind: ToolKind::Shell, path: "bin/sh".to_owned() }], "{number}");
        assert_eq!(found.files, 3, "{number}");
    }
}

#[test]
fn names_of_any_length_links_and_sparse_files_are_read_as_engines_read_them() {
    let long = format!("{}/bin/sh", "a".repeat(300));
    let mut builder = Builder::new(Vec::new());
    let mut header = Header::new_gnu();
    header.set_size(1);
    header.set_mode(0o4755);
    builder.append_data(&mut header, &long, &b"x"[..]).unwrap();
    let by_gnu = look(&builder.into_inner().unwrap());
    let record = format!("path={long}\n");
    let record = format!("{} {record}", record.len() + 4);
    let by_pax = tar(&[(EntryType::XHeader, "x", 0o644, record.as_bytes()), file("short", 0o4755, "x")]);
    for found in [by_gnu, look(&by_pax)] {
        assert_eq!((found.setuid, found.tools.len()), (vec![long.clone()], 1));
    }
    // The map of a sparse file goes on in blocks behind its header.
    let mut sparse = super::tests::header(EntryType::GNUSparse, "usr/bin/hole", 0o755, 512);
    sparse.as_gnu_mut().unwrap().isextended[0] = 1;
    sparse.set_cksum();
    let mut bytes = sparse.as_bytes().to_vec();
    let mut map = [0; 512];
    map[504] = 1;
    bytes.extend([map, [0; 512], [b'x'; 512]].concat());
    bytes.extend(tar(&[
        file("usr/bin/su", 0o4755, "x"),
        (EntryType::Link, "usr/bin/again", 0o4755, b""),
        (EntryType::Symlink, "bin/sh", 0o777, b""),
    ]));
    let found = look(&bytes);
    assert_eq!(
        (problems(&found), found.setuid),
        (Vec::new(), vec!["usr/bin/su".to_owned(), "usr/bin/again".to_owned()])
    );
    assert_eq!(
        (found.tools.len(), found.writable),
        (1, Vec::new()),
        "a link to a shell is one, and its mode says nothing"
    );
}

#[test]
fn a_secret_is_found_in_a_file_and_its_value_is_nowhere() {
    let token = format!("ghp_{}", "aB3".repeat(12));
    let found =
        look(&tar(&[file("app/run.sh", 0o755, &format!("TOKEN={token}")), file("usr/share/doc/a", 0o644, &token)]));
    assert_eq!(found.secrets, [Leak { kind: "a GitHub token".to_owned(), path: "app/run.sh".to_owned() }]);
    assert!(!format!("{found:?}").contains("aB3"));
}

#[test]
fn what_leads_out_of_a_layer_or_is_too_long_is_a_problem_and_the_rest_is_read() {
    let after = file("usr/bin/su", 0o4755, "x");
    let deep = "d/".repeat(3000);
    let record = format!("path={deep}\n");
    let record = format!("{} {record}", record.len() + 5);
    let mut link = header(EntryType::Link, "a", 0o644, 0);
    link.as_old_mut().linkname[..9].copy_from_slice(b"../../etc");
    link.set_cksum();
    let rest = tar(&[after]);
    for (layer, problem) in [
        (tar(&[file("../etc/passwd", 0o644, "x"), after]), Problem::Escapes),
        (tar(&[file("a/../../b", 0o644, "x"), after]), Problem::Escapes),
        ([link.as_bytes(), &*rest].concat(), Problem::Escapes),
        (tar(&[(EntryType::XHeader, "x", 0, record.as_bytes()), file("b", 0, "x"), after]), Problem::Path),
    ] {
        let found = look(&layer);
        assert_eq!((problems(&found), found.setuid.len()), (vec![problem], 1));
    }
    let odd = look(&tar(&[file("usr/bin/\u{1b}[2J%", 0o4755, "x")]));
    assert_eq!(odd.setuid, ["usr/bin/%1b%5b2J%25"]);
}

#[test]
fn what_is_damaged_is_a_problem_and_what_was_found_before_stays() {
    let whole = tar(&[file("usr/bin/su", 0o4755, "x"), file("b", 0o644, &"random ".repeat(1000))]);
    let (gzip, zstandard) = (gzip(&whole), zstandard(&whole));
    for cut in [1, 700, 1500, 3000] {
        assert_eq!(problems(&look(&whole[..cut])), [Problem::EndsEarly], "{cut}");
    }
    assert_eq!(look(&whole[..3000]).setuid.len(), 1);
    for (name, layer) in [("gzip", &gzip), ("zstandard", &zstandard)] {
        for cut in [5, layer.len() / 2, layer.len() - 9] {
            assert_eq!(problems(&look(&layer[..cut])), [Problem::EndsEarly], "{name} {cut}");
        }
    }
    assert_eq!(problems(&look(&b"{\"a\":1}".repeat(100))), [Problem::NoTar]);
    assert_eq!(problems(&look(b"\x1f\x8b\x08\0\0\0\0\0\0\xff\xff\xff\xff")), [Problem::Damaged]);
    assert_eq!(problems(&look(b"\x28\xb5\x2f\xfd\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff")).len(), 1);
    assert_eq!(problems(&look(b"")), []);
    // A window of 128 MiB.
    assert_eq!(problems(&look(b"\x28\xb5\x2f\xfd\0\x88\x01\0\0")), [Problem::Window]);
    let long = header(EntryType::GNULongName, "x", 0, 2 << 20);
    assert_eq!(problems(&look(&[long.as_bytes(), &[b'a'; 4096][..]].concat())), [Problem::Header]);
}

#[test]
fn a_bomb_is_bounded_in_entries_bytes_and_work() {
    let many: Vec<_> = (0..50).map(|_| file("a", 0o644, "x")).collect();
    let large = header(EntryType::Regular, "zeros", 0o644, u64::MAX >> 2);
    let endless = || std::io::Cursor::new(large.as_bytes().to_vec()).chain(std::io::repeat(0));
    let bounds = Bounds { entries: 20, bytes: 10 << 20 };
    assert_eq!(problems(&scan(&*tar(&many), bounds, &|| true)), [Problem::Entries]);
    let found = scan(endless(), bounds, &|| true);
    assert!(problems(&found) == [Problem::Bytes] && found.bytes <= bounds.bytes + (64 << 10), "{found:?}");
    let asked = std::cell::Cell::new(0);
    let found = scan(endless(), Bounds::default(), &|| {
        asked.set(asked.get() + 1);
        asked.get() < 5
    });
    assert!(problems(&found) == [Problem::Work] && found.bytes < 1 << 20, "{found:?}");
    let found = look(&tar(&(0..500).map(|_| file("usr/bin/su", 0o4755, "x")).collect::<Vec<_>>()));
    assert_eq!(found.setuid.len(), MOST);
}

/// A link of this kind.
fn link(kind: EntryType, path: &str, target: &str) -> Vec<u8> {
    let mut link = header(kind, path, 0o777, 0);
    link.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
    link.set_cksum();
    link.as_bytes().to_vec()
}

#[test]
fn users_are_those_that_engines_read_and_none_of_a_file_that_is_not_surely_it() {
    let users = |layer: &[u8]| {
        let found = look(layer);
        assert_eq!(problems(&found), []);
        (found.users, found.has_other_etc)
    };
    let passwd = |text: &str| tar(&[file("./etc/passwd", 0o644, text)]);
    let read = |text: &str| users(&passwd(text)).0.unwrap();
    let app = |uid| vec![("app".to_owned(), Some(uid))];
    assert_eq!(read("app:x:1000:0::/:/x\n"), app(1000));
    for root in
        ["app:x:00:0", " app:x:0:0", "\u{85}app:x:0:0", "app:x:abc:0", "app:x", "app", "app:x:\u{660}:0", "app:x: 7:0"]
    {
        assert_eq!(read(root), app(0), "{root:?}");
    }
    assert_eq!(read("app :x:0:0\r\n\n  \r\n"), [("app ".to_owned(), Some(0))]);
    assert_eq!(read("app:x:-1:0\napp:x:99999999999999999999:0"), [("app".to_owned(), None), ("app".to_owned(), None)]);
    let bytes = [&b"app:x:0:0:\xff:/:/x\n"[..], b"b\xff:x:1:1\n"].concat();
    let layer = tar(&[(EntryType::Regular, "etc/passwd", 0o644, &bytes)]);
    assert_eq!(users(&layer).0, Some(app(0)), "a line that is no UTF-8 is one too");

    let end = tar(&[]);
    let whole = |entries: &[Vec<u8>]| [&entries.concat()[..], &end].concat();
    let ok = || passwd("app:x:1000:0::/:/x\n")[..1024].to_vec();
    let removed = |path: &str| tar(&[file(path, 0o644, "")])[..512].to_vec();
    for obscure in [
        whole(&[ok(), link(EntryType::Symlink, "etc/passwd", "/x")]),
        whole(&[ok(), link(EntryType::Link, "etc/passwd", "x")]),
        whole(&[ok(), removed("etc/passwd")]),
        whole(&[removed("etc/.wh.passwd")]),
        whole(&[removed("etc/.wh.passwd"), ok()]),
        whole(&[ok(), removed(".wh.etc")]),
        whole(&[removed("etc/.wh..wh..opq")]),
        tar(&[(EntryType::GNUSparse, "etc/passwd", 0o644, b"app:x:1000:0")]),
    ] {
        assert_eq!(users(&obscure), (Some(Vec::new()), false));
    }
    assert_eq!(users(&whole(&[removed("etc/.wh..wh..opq"), ok()])), (Some(app(1000)), false));
    for (path, target, is_other) in [
        ("etc", "e2", true),
        ("x", "etc", true),
        ("a/x", "../etc", true),
        ("a/x", "/", true),
        ("a/x", "b/..", true),
        ("usr/bin/X11", ".", false),
        ("usr/lib/ssl/certs", "/etc/ssl/certs", false),
        ("bin", "usr/bin", false),
    ] {
        let found = users(&whole(&[ok(), link(EntryType::Symlink, path, target)]));
        assert_eq!(found, (Some(app(1000)), is_other), "{path} {target}");
    }
    assert!(users(&tar(&[file("etc", 0o644, "x")])).1);
    assert_eq!(users(&tar(&[file("etc/hosts", 0o644, "x"), (EntryType::Directory, "etc", 0o755, b"")])), (None, false));
}
