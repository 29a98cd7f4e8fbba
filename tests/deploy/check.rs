//! `weir check`: what it refuses, and what it warns of.

use std::os::unix::fs::DirBuilderExt as _;

use super::{printed, weir};

#[test]
fn weir_check_says_whether_the_data_directory_can_be_used_and_makes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    let check = |root: &std::path::Path| weir(&["check"]).env("WEIR_STORAGE__ROOT", root).output().unwrap();
    for root in [file.clone(), file.join("weir-data")] {
        let output = check(&root);
        assert_eq!(output.status.code(), Some(1));
        let begins = format!("weir: WEIR_STORAGE__ROOT: storage.root = {root:?}: {}", file.display());
        assert!(printed(&output).starts_with(&begins), "{}", printed(&output));
    }
    // root writes anywhere.
    if !rustix::process::geteuid().is_root() {
        let closed = directory.path().join("closed");
        std::fs::DirBuilder::new().mode(0o555).create(&closed).unwrap();
        let output = check(&closed.join("weir-data"));
        assert!(
            printed(&output).contains(&format!("{} may not be written in", closed.display())),
            "{}",
            printed(&output)
        );
    }
    let output = check(&directory.path().join("a/b"));
    assert!(output.status.success(), "{}", printed(&output));
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
        (
            "[[warm]]\nname = \"night\"\nimages = [\"a\"]\nat = \"2 am\"".to_owned(),
            "warm[0].at = \"2 am\": write a time of day in UTC",
        ),
        (
            "[[warm]]\nname = \"night\"\nfile = \"/nonexistent\"\nat = \"02:00\"".to_owned(),
            "warm[0].file = \"/nonexistent\": No such file",
        ),
        ("[storage]\nroot = \"/proc/weir\"".to_owned(), "storage.root = \"/proc/weir\": /proc is a view of the kernel"),
        ("[server]\nlisten = \"192.0.2.1:5000\"".to_owned(), "server.listen = \"192.0.2.1:5000\": "),
        (
            "[admin]\nlisten = \"127.0.0.1:0\"\n[[listener]]\naddress = \"192.0.2.1:1\"".to_owned(),
            "listener[0].address = ",
        ),
    ] {
        let output = check(&text, none);
        assert_eq!(output.status.code(), Some(1), "{text}: {}", printed(&output));
        let begins = |place: &str| printed(&output).starts_with(&format!("weir: {place}{said}"));
        let lines = 1..=text.lines().count();
        assert!(
            begins("") || lines.into_iter().any(|line| begins(&format!("{}:{line}: ", config.display()))),
            "{text}: {}",
            printed(&output)
        );
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
        ("[hosted]\nprivate = [\"local/*\"]".to_owned(), "hosted.private[0] = \"local/*\": matches nothing"),
        (
            format!("[hosted]\nnamespaces = [\"local/*\"]\n[[account]]\n{hash}\npush = [\"loca1/*\"]"),
            "account[0].push[0] = \"loca1/*\"",
        ),
        (
            "[limits]\nallowlist = [{ client = \"10.0.0.1\", expires = \"2001-01-01T00:00:00Z\" }]".to_owned(),
            "limits.allowlist[0]",
        ),
        (
            "[hosted]\nnamespaces = [\"local/*\"]\nimmutable_tags = [\"v[0-\"]".to_owned(),
            "hosted.immutable_tags[0] = \"v[0-\": matches nothing",
        ),
        (
            upstream("url = \"http://127.0.0.1:5001\""),
            "upstream[0].url = \"http://127.0.0.1:5001/\": this is Weir itself",
        ),
        (
            "[hosted]\nnamespaces = [\"local/*\"]\nimmutable_tags = [\"foo/*:v*\"]".to_owned(),
            "hosted.immutable_tags[0] = \"foo/*:v*\": protects nothing",
        ),
        ("[hosted]\nimmutable_tags = [\"v*\"]".to_owned(), "hosted.immutable_tags[0] = \"v*\": protects nothing"),
        (
            format!("[[account]]\n{hash}\nnamespaces = [\"local/[x\"]"),
            "account[0].namespaces[0] = \"local/[x\": matches nothing: the bracket",
        ),
        (
            format!("[[account]]\n{hash}\npull = [\"quay.io/*\"]"),
            "account[0].pull[0] = \"quay.io/*\": matches nothing: no [[upstream]]",
        ),
        (
            "[[policy]]\nname = \"a\"\nimages = [\"quay.io/*\"]\nnon_root = true".to_owned(),
            "policy[0].images[0] = \"quay.io/*\": matches nothing: no [[upstream]]",
        ),
        (
            "[[policy]]\nname = \"a\"\nimages = [\"*\"]\nexcept = [\"docker.io/[a\"]\nnon_root = true".to_owned(),
            "policy[0].except[0] = \"docker.io/[a\": matches nothing: the bracket",
        ),
        (
            "[limits]\nuser_allowlist = [\"12\", \"nobody\"]".to_owned(),
            "limits.user_allowlist[1] = \"nobody\": no [[account]]",
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
        assert!(output.status.success(), "{text}: {}", printed(&output));
        let lines: Vec<_> =
            printed(&output).lines().filter(|line| line.starts_with("warning: ")).map(str::to_owned).collect();
        let begins = format!("warning: {}:", config.display());
        let warned = |line: &String| line.starts_with(&begins) && line.contains(&format!(": {said}"));
        assert!(lines.iter().any(warned), "{text}: {}", printed(&output));
        assert_eq!(lines.len(), 1, "{text}: {}", printed(&output));
    }
    let output = check("", ("WEIR_LOG", "nonsense=zzz"));
    assert!(printed(&output).contains("warning: WEIR_LOG = \"nonsense=zzz\": "), "{}", printed(&output));
    let output = check("[server]\nlisten = \"127.0.0.1:6612\"", ("WEIR_SERVER__LISTEN", "127.0.0.1:6613"));
    let said = "warning: WEIR_SERVER__LISTEN = \"127.0.0.1:6613\": overrides server.listen = \"127.0.0.1:6612\"";
    assert!(printed(&output).contains(said), "{}", printed(&output));
    let output = check("", ("WEIR_UPSTREAM__0__URL", "http://127.0.0.1:9"));
    assert!(!printed(&output).contains("warning"), "no file says otherwise: {}", printed(&output));
    assert!(!printed(&check("", none)).contains("warning"), "the defaults are as they are meant");
}

#[test]
fn weir_check_names_every_mistake_with_its_line_or_variable() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("weir.toml");
    std::fs::write(&config, "[log]\nfromat = \"text\"\n[storage]\ncapacity = \"50GB!\"\n[mirror]\nfills = 0\n")
        .unwrap();
    let mut command = weir(&["check", "--config", config.to_str().unwrap()]);
    let output = command.env("WEIR_HOSTED__UPLOADS", "0").output().unwrap();
    let file = config.display();
    let mut begins = vec![
        format!("weir: {file}:2: log.fromat = \"text\": there is no such key"),
        format!("weir: {file}:4: storage.capacity = \"50GB!\": not a size"),
        format!("weir: {file}:6: mirror.fills = 0: write 1 to 256"),
        "weir: WEIR_HOSTED__UPLOADS: hosted.uploads = 0: no client could push".to_owned(),
    ];
    begins.retain(|begins| !printed(&output).lines().any(|line| line.starts_with(begins)));
    assert_eq!((begins, printed(&output).lines().count()), (Vec::new(), 4), "{}", printed(&output));
}

#[test]
fn weir_check_says_all_mistakes_at_once_to_a_person_and_to_a_script() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("weir.toml");
    let check = |text: &str, arguments: &[&str]| {
        std::fs::write(&config, text).unwrap();
        let output = weir(&[&["check", "--config", config.to_str().unwrap()], arguments].concat()).output().unwrap();
        let json = serde_json::from_slice::<serde_json::Value>(&output.stdout).ok();
        (output, json)
    };
    let hash = "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$1hDPFpFtKWtvzCYWjxAeyDpHpXwYpFkAB2XV0nqqqqM";
    // Of these, the file alone shows the hash that is none; the others are seen by a look at the machine.
    let text = format!(
        "[server]\nlisten = \"192.0.2.1:5000\"\n[[listener]]\naddress = \"192.0.2.1:5443\"\n\
         [admin]\nlisten = \"192.0.2.1:5001\"\n[storage]\nroot = \"/proc/weir\"\n\
         [[account]]\nname = \"ops\"\nrole = \"admin\"\npassword_hash = {hash:?}\n\
         [[account]]\nname = \"ci\"\npassword_hash = \"a password\"\n\
         [[upstream]]\nname = \"x.io\"\nurl = \"https://x.io\"\ndefault = true\nca_file = {config:?}\n\
         [[warm]]\nname = \"a\"\nfile = \"/nonexistent\"\nat = \"02:00\"\n\
         [mirror]\ntag_ttl = \"99999999d\"\n"
    );
    let of_one_table = [
        "server.listen",
        "listener[0].address",
        "admin.listen",
        "storage.root",
        "account[1].password_hash",
        "upstream[0].ca_file",
    ];
    let all = [&of_one_table[..], &["warm[0].file"]].concat();
    // With a key that does not exist, what two tables say about each other is not looked at.
    let mistyped = format!("{text}[log]\nfromat = \"text\"\n");
    let of_a_mistyped_one = [&of_one_table[..], &["log.fromat"]].concat();
    for (text, keys) in [(&text, &all), (&mistyped, &of_a_mistyped_one)] {
        let (output, _) = check(text, &[]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        for key in keys {
            let is_about = |line: &&str| line.contains(&format!(": {key} = ")) || line.contains(&format!(": {key}: "));
            assert_eq!(said.lines().filter(is_about).count(), 1, "{key} in {said}");
        }
        assert_eq!((output.status.code(), said.lines().count()), (Some(1), keys.len()), "{said}");
        let (output, json) = check(text, &["--json"]);
        let json = json.unwrap_or_else(|| panic!("{}", printed(&output)));
        assert_eq!((output.status.code(), output.stderr.len()), (Some(1), 0));
        assert_eq!(json["errors"].as_array().unwrap().len(), keys.len(), "{json}");
    }
    let (output, _) = check(&text, &[]);
    let warnings = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(warnings.starts_with("warning: ") && warnings.contains(": mirror.tag_ttl = "), "{warnings}");
    assert!(!warnings.contains("fine"), "{warnings}");

    let (output, json) = check("[log]\nfromat = \"text\"\n", &["--json"]);
    let error = &json.unwrap_or_else(|| panic!("{}", printed(&output)))["errors"][0];
    assert_eq!((output.status.code(), &error["key"]), (Some(1), &"log.fromat".into()));
    assert!(error["place"].as_str().unwrap().ends_with("weir.toml:2"), "{error}");
    assert!(error["problem"].as_str().unwrap().ends_with("did you mean format?"), "{error}");

    let (output, json) = check("[mirror]\ntag_ttl = \"99999999d\"\n", &["--json"]);
    let json = json.unwrap_or_else(|| panic!("{}", printed(&output)));
    assert!(output.status.success() && json["errors"] == serde_json::json!([]), "{json}");
    assert_eq!(json["warnings"][0]["key"], "mirror.tag_ttl", "{json}");
}

#[test]
fn weir_check_says_what_a_configuration_comes_to() {
    let directory = tempfile::tempdir().unwrap();
    let (config, root) = (directory.path().join("weir.toml"), directory.path().join("not/yet"));
    let hash = "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$1hDPFpFtKWtvzCYWjxAeyDpHpXwYpFkAB2XV0nqqqqM";
    let text = format!(
        "[server]\nlisten = [\"127.0.0.1:6001\", \"127.0.0.2:6001\"]\n[[listener]]\naddress = \"127.0.0.1:6002\"\nlogin = true\n\
         [admin]\nlisten = \"0.0.0.0:6003\"\n[storage]\nroot = {root:?}\ncapacity = \"1GiB\"\n\
         [hosted]\nnamespaces = [\"local/*\", \"team/*\"]\n\
         [[account]]\nname = \"ops\"\nrole = \"admin\"\npassword_hash = {hash:?}\n\
         [[account]]\nname = \"prometheus\"\nrole = \"metrics\"\npassword_hash = {hash:?}\n\
         [[class]]\nname = \"bulk\"\ncidr = [\"10.9.0.0/16\"]\naccounts = [\"ops\"]\nuser_agent = \"trivy\"\n"
    );
    std::fs::write(&config, text).unwrap();
    let output = weir(&["check", "--config", config.to_str().unwrap()]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && said.starts_with("the configuration is fine\n"), "{}", printed(&output));
    for line in [
        "  serves registry clients on 127.0.0.1:6001",
        "  serves registry clients on 127.0.0.2:6001",
        "  serves registry clients on 127.0.0.1:6002, with a login",
        "  serves operators on 0.0.0.0:6003, with a login",
        "  hosts local/*, team/*",
        "  account ops: admin",
        "  account prometheus: metrics",
        "  class bulk: 10.9.0.0/16, account ops, a User-Agent with \"trivy\"",
        "  mirrors docker.io from https://registry-1.docker.io/ anonymously, names without a registry too",
    ] {
        assert!(said.lines().any(|said| said == line), "{line:?} is not in {said}");
    }
    let kept = format!("  keeps at most 1GiB in {}, on a disk with ", root.display());
    assert!(said.lines().any(|line| line.starts_with(&kept) && line.ends_with("B free")), "{said}");
    assert!(!said.contains("argon2id"), "{said}");
}
