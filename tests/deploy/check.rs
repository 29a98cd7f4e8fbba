//! `weir check`: what it refuses, and what it warns of.

use std::os::unix::fs::DirBuilderExt as _;

use super::{told, weir};

#[test]
fn weir_check_says_whether_the_data_directory_can_be_used_and_makes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    let check = |root: &std::path::Path| weir(&["check"]).env("WEIR_STORAGE__ROOT", root).output().unwrap();
    for root in [file.clone(), file.join("weir-data")] {
        let output = check(&root);
        assert_eq!(output.status.code(), Some(1));
        let begins = format!("weir: storage.root = {root:?}: {}", file.display());
        assert!(told(&output).starts_with(&begins), "{}", told(&output));
    }
    // root writes anywhere.
    if !rustix::process::geteuid().is_root() {
        let closed = directory.path().join("closed");
        std::fs::DirBuilder::new().mode(0o555).create(&closed).unwrap();
        let output = check(&closed.join("weir-data"));
        assert!(told(&output).contains(&format!("{} may not be written in", closed.display())), "{}", told(&output));
    }
    let output = check(&directory.path().join("a/b"));
    assert!(output.status.success(), "{}", told(&output));
    assert!(!directory.path().join("a").exists());
}

#[test]
fn weir_check_refuses_what_cannot_work_and_warns_of_what_is_hardly_meant() {
    let directory = tempfile::tempdir().unwrap();
    let (config, password) = (directory.path().join("weir.toml"), directory.path().join("password"));
    std::fs::write(&password, "secret").unwrap();
    let check = |text: &str, variable: (&str, &str)| {
        std::fs::write(&config, text.replace("PASSWORD", password.to_str().unwrap())).unwrap();
        let mut command = weir(&["check", "--config", config.to_str().unwrap()]);
        command.current_dir(directory.path()).env(variable.0, variable.1).output().unwrap()
    };
    let none = ("UNRELATED", "");
    let upstream = |rest: &str| format!("[[upstream]]\nname = \"x.io\"\n{rest}");
    for (text, said) in [
        (upstream("url = \"https://x.io\"\nca_file = \"PASSWORD\""), "upstream[0].ca_file = "),
        ("[storage]\nroot = \"/proc/weir\"".to_owned(), "storage.root = \"/proc/weir\": /proc is a view of the kernel"),
        ("[server]\nlisten = \"192.0.2.1:5000\"".to_owned(), "server.listen = \"192.0.2.1:5000\": "),
        (
            "[admin]\nlisten = \"127.0.0.1:0\"\n[[listener]]\naddress = \"192.0.2.1:1\"".to_owned(),
            "listener[0].address = ",
        ),
    ] {
        let output = check(&text, none);
        assert_eq!(output.status.code(), Some(1), "{text}: {}", told(&output));
        assert!(told(&output).starts_with(&format!("weir: {said}")), "{text}: {}", told(&output));
    }
    let account = "accounts = [{ username = \"me\", password_file = \"PASSWORD\" }]";
    let hash = "name = \"ci\"\npassword_hash = \"$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$1hDPFpFtKWtvzCYWjxAeyDpHpXwYpFkAB2XV0nqqqqM\"";
    for (text, said) in [
        (upstream("url = \"https://x.io/v2\""), "upstream[0].url = \"https://x.io/v2\": /v2/ is added"),
        (upstream(&format!("url = \"http://x.io\"\n{account}")), "upstream[0].url = \"http://x.io/\": the password"),
        (
            upstream("url = \"http://127.0.0.1:5000\""),
            "upstream[0].url = \"http://127.0.0.1:5000/\": this is Weir itself",
        ),
        (
            "[hosted]\nnamespaces = [\"library/*\"]".to_owned(),
            "hosted.namespaces[0] = \"library/*\": hides the official",
        ),
        (
            "[hosted]\nnamespaces = [\"docker.io/*\"]".to_owned(),
            "hosted.namespaces[0] = \"docker.io/*\": hides an upstream",
        ),
        (
            "[[mirror.tag]]\npattern = \"quay.io/a:b\"\nttl = \"1h\"".to_owned(),
            "mirror.tag[0].pattern = \"quay.io/a:b\": matches",
        ),
        ("[hosted]\nprivate = [\"local/*\"]".to_owned(), "hosted.private = \"local/*\": matches nothing"),
        (
            format!("[hosted]\nnamespaces = [\"local/*\"]\n[[account]]\n{hash}\npush = [\"loca1/*\"]"),
            "account[0].push = \"loca1/*\"",
        ),
        (
            "[limits]\nallowlist = [{ client = \"10.0.0.1\", expires = \"2001-01-01T00:00:00Z\" }]".to_owned(),
            "limits.allowlist[0]",
        ),
        (
            "[hosted]\nnamespaces = [\"local/*\"]\nimmutable_tags = [\"v[0-\"]".to_owned(),
            "hosted = \"v[0-\": matches nothing",
        ),
        (
            "[budget]\nfloors = { critical = 0.5 }".to_owned(),
            "budget.floors.critical = 0.5: more than the floor of standard",
        ),
        ("[storage]\ncapacity = \"500TiB\"".to_owned(), "storage.capacity = \"500TiB\": more than the "),
        ("[server]\nconnections = 999999999".to_owned(), "server.connections = 999999999: needs two open files each"),
        ("[mirror]\ntag_ttl = \"99999999d\"".to_owned(), "mirror.tag_ttl = "),
        (
            "[server]\ntrusted_proxies = [\"10.0.0.5/8\"]".to_owned(),
            "server.trusted_proxies[0] = \"10.0.0.5/8\": is read as 10.0.0.0/8",
        ),
    ] {
        let output = check(&text, none);
        assert!(output.status.success(), "{text}: {}", told(&output));
        let lines: Vec<_> =
            told(&output).lines().filter(|line| line.starts_with("warning: ")).map(str::to_owned).collect();
        assert!(lines.iter().any(|line| line.starts_with(&format!("warning: {said}"))), "{text}: {}", told(&output));
        assert_eq!(lines.len(), 1, "{text}: {}", told(&output));
    }
    let output = check("", ("WEIR_LOG", "nonsense=zzz"));
    assert!(told(&output).contains("warning: WEIR_LOG = \"nonsense=zzz\": "), "{}", told(&output));
    let output = check("[server]\nlisten = \"127.0.0.1:6612\"", ("WEIR_SERVER__LISTEN", "127.0.0.1:6613"));
    let said = "warning: WEIR_SERVER__LISTEN = \"127.0.0.1:6613\": overrides server.listen = \"127.0.0.1:6612\"";
    assert!(told(&output).contains(said), "{}", told(&output));
    assert!(!told(&check("", none)).contains("warning"), "the defaults are as they are meant");
}
