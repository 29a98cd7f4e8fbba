//! `weir config show`: the settings of a file and of the environment, with where each was written.

use super::{printed, weir};

#[test]
fn weir_config_show_names_the_origin_of_each_value_and_its_default() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("weir.toml");
    std::fs::write(&config, "[mirror]\nfills = 3\nproxy = \"http://me:secret@proxy:3128\"\n[[upstream]]\nname = \"ghcr.io\"\nurl = \"https://ghcr.io\"\n").unwrap();
    let show = |arguments: &[&str]| {
        let output = weir(&[&["config", "show", "--config", config.to_str().unwrap()], arguments].concat())
            .env("WEIR_SERVER__DRAIN", "7s")
            .output()
            .unwrap();
        assert!(!printed(&output).contains("secret"), "{}", printed(&output));
        output
    };
    let all = printed(&show(&[]));
    let line = |text: &str, key: &str| {
        let line = text.lines().find(|line| line.starts_with(&format!("{key} = ")));
        line.unwrap_or_else(|| panic!("{key} is not in {text}")).split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let file = config.display();
    assert!(line(&all, "mirror.fills").starts_with(&format!("mirror.fills = 3 # {file}:2; by default ")), "{all}");
    assert_eq!(line(&all, "server.drain"), "server.drain = \"7s\" # WEIR_SERVER__DRAIN; by default \"30s\"");
    assert_eq!(line(&all, "server.listen"), "server.listen = \"127.0.0.1:5000\" # default");
    assert_eq!(line(&all, "upstream[0].name"), format!("upstream[0].name = \"ghcr.io\" # {file}:5"));

    let changed = printed(&show(&["--changed"]));
    assert!(changed.contains("mirror.fills = 3") && !changed.contains("server.listen"), "{changed}");
    let mirror = printed(&show(&["mirror"]));
    assert!(mirror.lines().count() > 5 && mirror.lines().all(|line| line.starts_with("mirror.")), "{mirror}");

    let json: serde_json::Value = serde_json::from_slice(&show(&["--json", "server.drain"]).stdout).unwrap();
    assert_eq!(
        (&json[0]["key"], &json[0]["value"], &json[0]["default"]),
        (&"server.drain".into(), &"7s".into(), &"30s".into())
    );

    let output = show(&["mirror.files"]);
    assert!(!output.status.success() && printed(&output).contains("there is no setting \"mirror.files\""));
    let meant = "there is no setting \"upstrem\"; weir config show has all; did you mean upstream?";
    assert!(printed(&show(&["upstrem"])).contains(meant), "{}", printed(&show(&["upstrem"])));
}
