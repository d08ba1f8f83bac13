//! The daemon as another process of its user sees it, which is what a helper that was taken over would be, were it in no jail. It needs
//! root.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

#[path = "../../launcher/tests/it/user.rs"]
mod user;

use user::User;

/// Nobody's user.
const USER: User = User { number: 2_000_000_124, capabilities: 0 };

/// Ends with the test, however that ends.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn another_process_of_its_user_gets_nothing_of_the_daemon() {
    let dir = tempfile::tempdir().unwrap();
    chown(dir.path(), Some(USER.number), None).unwrap();
    let path = dir.path().display();
    let config = dir.path().join("agent.toml");
    let lines = format!("listen = '127.0.0.1:0'\nstate_dir = '{path}/state'\nlib_dir = '{path}'\n");
    fs::write(&config, lines).unwrap();
    // The user has no way to where cargo puts it.
    let program = File::open(env!("CARGO_BIN_EXE_host-agent")).unwrap();
    let mut daemon = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()));
    daemon.env_clear().args(["serve", "--no-auth", "--config"]).arg(config).stderr(Stdio::piped());
    let mut daemon = Daemon(daemon.uid(USER.number).gid(USER.number).spawn().unwrap());
    let mut log = BufReader::new(daemon.0.stderr.take().unwrap()).lines().map_while(Result::ok);
    // It serves when it has confined itself.
    assert!(log.any(|line| line.contains("tinderbox: serving on ")), "{:?}", daemon.0.wait());
    USER.gets_nothing_of(daemon.0.id());
}
