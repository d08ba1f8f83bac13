//! QEMU's user network listens for forwarded ports with room for one waiting connection: of a burst of clients most
//! would wait for their kernel's retries, some in vain. A listening socket's room can be changed at any time by whoever
//! has it, and a process may take its child's: so we do.

use super::Forward;
use anyhow::{Context as _, Result};
use rustix::net::{SocketAddrAny, getsockname, listen, sockopt::socket_acceptconn};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use std::fs;
use std::net::SocketAddr;

/// As many as the appliance's own listener lets wait.
const BACKLOG: i32 = 1024;

/// Gives every forwarded port of a running QEMU room for a burst of clients.
pub(super) fn widen(qemu: u32, forwards: &[Forward]) -> Result<()> {
    let pid = i32::try_from(qemu).ok().and_then(Pid::from_raw).context("QEMU has no process id")?;
    let process = pidfd_open(pid, PidfdFlags::empty()).context("open QEMU's process")?;
    for entry in fs::read_dir(format!("/proc/{qemu}/fd")).context("list QEMU's descriptors")? {
        let entry = entry?;
        let Some(number) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // Only sockets; a descriptor that was closed meanwhile is none.
        if !fs::read_link(entry.path()).is_ok_and(|target| target.to_string_lossy().starts_with("socket:")) {
            continue;
        }
        let Ok(socket) = pidfd_getfd(&process, number, PidfdGetfdFlags::empty()) else { continue };
        let port = getsockname(&socket).ok().and_then(port);
        let forwarded = forwards.iter().any(|forward| Some(forward.host) == port);
        if forwarded && socket_acceptconn(&socket).unwrap_or(false) {
            listen(&socket, BACKLOG).context("widen a listening socket")?;
        }
    }
    Ok(())
}

fn port(address: SocketAddrAny) -> Option<u16> {
    SocketAddr::try_from(address).ok().map(|address| address.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_listening_socket_of_a_process_is_found_and_others_are_left_alone() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().port();
        widen(std::process::id(), &[Forward { host, guest: 1 }]).unwrap();
        let table = fs::read_to_string("/proc/net/tcp").unwrap();
        // The line of a listening socket has its state (0A) behind its address.
        assert!(table.contains(&format!("0100007F:{host:04X} 00000000:0000 0A")), "{table}");
    }
}
