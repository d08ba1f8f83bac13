//! What a file and a credential make of a node's configuration, and which field is named when they make none.

use super::*;

/// What a file and a credential make.
fn load(file: &str, credential: &str) -> Result<Config, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.toml");
    std::fs::write(&path, file).unwrap();
    std::fs::write(dir.path().join(CREDENTIAL), credential).unwrap();
    Config::load(Some(&path), Some(dir.path()), None)
}

#[test]
fn an_empty_file_gives_the_defaults() {
    let config = load("", "").unwrap();
    assert_eq!(config.listen, "127.0.0.1:9000".parse().unwrap());
    assert_eq!(config.account_id, "000000000000");
    assert_eq!(config.auth, AuthMode::Required);
    assert!(config.runtime_snapshots);
    assert_eq!(config.runtime_stand_ins, StandIns::Allowed);
    assert_eq!(load("runtime_stand_ins = false", "").unwrap().runtime_stand_ins, StandIns::Refused);
}

#[test]
fn the_credential_wins_over_the_file() {
    let config = load("listen = '127.0.0.1:1'\nregion = 'eu-west-1'", "listen = '127.0.0.1:2'").unwrap();
    assert_eq!(config.listen.port(), 2);
    assert_eq!(config.region, "eu-west-1");
}

#[test]
fn listening_beyond_loopback_needs_keys() {
    let keys = "[[keys]]\naccess_key_id = 'a'\nsecret_access_key = 's'";
    for open in ["0.0.0.0:9000", "[::]:9000", "192.168.1.1:80", "[::ffff:10.0.0.1]:80"] {
        let line = format!("listen = '{open}'\n");
        assert!(matches!(load(&line, ""), Err(ConfigError::NoKeys(_))), "{open}");
        load(&line, keys).unwrap();
        load(&line, "auth = 'optional'").unwrap();
    }
    for closed in ["127.0.0.1:9000", "[::1]:9000", "127.8.8.8:80", "[::ffff:127.0.0.1]:80"] {
        load(&format!("listen = '{closed}'"), "").unwrap();
    }
}

#[test]
fn a_wrong_field_is_named() {
    for (file, names) in [
        ("listn = 'x'", "listn"),
        ("listen = 'x'", "listen"),
        ("account_id = '12'", "account_id"),
        ("region = '../x'", "region"),
        ("init_timeout_ms = 0", "init_timeout_ms"),
        ("restore_timeout_ms = 0", "restore_timeout_ms"),
        ("memory_mib_per_cpu = 0", "memory_mib_per_cpu"),
        ("state_dir = 'state'", "`state_dir`"),
        ("mkfs_erofs = 'mkfs.erofs'", "`mkfs_erofs`"),
        ("auth = 'maybe'", "maybe"),
        ("runtime_snapshots = 'many'", "runtime_snapshots"),
        ("[concurrency]\naccount = 100", "concurrency.account"),
        ("[concurrency]\ngrowth_s = 0", "concurrency.growth_s"),
        ("[[keys]]\naccess_key_id = ''\nsecret_access_key = 's'", "keys"),
    ] {
        let error = load(file, "").unwrap_err();
        let text = format!("{:?}", anyhow::Error::from(error));
        assert!(text.contains(names), "{file}: {text}");
    }
}

#[test]
fn a_key_does_not_print_its_secret() {
    let config = load("[[keys]]\naccess_key_id = 'a'\nsecret_access_key = 'hidden'", "").unwrap();
    assert!(!format!("{config:?}").contains("hidden"));
}
