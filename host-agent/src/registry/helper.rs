//! The helper as a process, `host-agent pull-image`: reads its request, confines itself, and only then connects anywhere.
//!
//! It has one thread. Its jail has the ports of the places that it was given, the files by which names are resolved, to be read, and the three
//! descriptors that it began with. It ends when the agent is gone.

use std::{
    io::{BufRead as _, BufWriter, Read as _},
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;
use jail::{Access, JailPlan, Limit, PathRule, PortAccess, PortRule, Resource, SyscallFilter, allow, libc};
use reqwest::Url;
use tokio::{io::AsyncReadExt as _, net::unix::pipe};
use zeroize::Zeroizing;

use super::{
    Found, Refusal, Request, Wanted,
    archive::{self, ArchiveError},
    client::Client,
    manifest,
};
use crate::code::confined::EXIT_REFUSED;

/// Longest request: authorities are most of it.
pub(super) const MAX_REQUEST_LEN: u64 = 2 * 1024 * 1024;

/// Where names are asked for, when an answer is too long for a datagram.
const DNS_PORT: u16 = 53;

/// Where blobs may be that no configuration says a port of.
const HTTPS_PORT: u16 = 443;

/// What libc reads to resolve a name, without the modules that a host may have beside its own.
const RESOLVER_FILES: [&str; 6] = [
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/host.conf",
    "/etc/nsswitch.conf",
    "/etc/gai.conf",
    "/etc/ld.so.cache",
];

/// Is the helper.
pub(crate) fn pull() -> ExitCode {
    let said = match run() {
        Ok(found) => (serde_json::to_string(&found), ExitCode::SUCCESS),
        Err(error) => match error.downcast_ref::<Refusal>() {
            Some(refusal) => (serde_json::to_string(refusal), ExitCode::from(EXIT_REFUSED)),
            None => (Ok(format!("pull-image: {error:#}")), ExitCode::FAILURE),
        },
    };
    eprintln!("{}", said.0.unwrap_or_default());
    said.1
}

fn run() -> anyhow::Result<Found> {
    let request = read()?;
    enter(&request)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot start the runtime")?;
    runtime.block_on(async {
        let agent = std::io::stdin().as_fd().try_clone_to_owned().context("cannot watch the agent")?;
        let mut agent = pipe::Receiver::from_owned_fd(agent).context("cannot watch the agent")?;
        tokio::select! {
            found = serve(request) => found,
            // It says nothing more.
            _ = agent.read_u8() => anyhow::bail!("the agent is gone"),
        }
    })
}

fn read() -> anyhow::Result<Request> {
    let mut line = Zeroizing::new(Vec::new());
    let read = std::io::stdin().lock().take(MAX_REQUEST_LEN).read_until(b'\n', &mut line);
    read.context("cannot read the request")?;
    serde_json::from_slice(&line).context("this is no request")
}

async fn serve(request: Request) -> anyhow::Result<Found> {
    let Request { registry, repository, reference, wanted, pace } = request;
    let mut client = Client::new(registry, repository, pace)?;
    let image = manifest::find(&mut client, &reference).await?;
    let max_len = match wanted {
        Wanted::Digest => return Ok(image.found),
        Wanted::Archive { max_len } => max_len,
    };
    let file = std::io::stdout().as_fd().try_clone_to_owned().context("cannot write the archive")?;
    let mut file = BufWriter::with_capacity(256 * 1024, std::fs::File::from(file));
    match archive::write(&mut client, image, max_len, &mut file).await {
        Ok(found) => Ok(found),
        Err(ArchiveError::Refused(refusal)) => Err(refusal.into()),
        Err(error) => Err(error.into()),
    }
}

fn enter(request: &Request) -> anyhow::Result<()> {
    let filter = filter().compile().context("cannot compile the system call filter")?;
    plan(request)?.enter().context("cannot enter the jail")?;
    filter.apply().context("cannot apply the system call filter")
}

fn plan(request: &Request) -> anyhow::Result<JailPlan> {
    let max_len = match request.wanted {
        Wanted::Digest => 0,
        Wanted::Archive { max_len } => max_len,
    };
    let limit = |resource, value, reason| Limit { resource, value, reason };
    let limits = vec![
        limit(Resource::RLIMIT_FSIZE, max_len, "the archive"),
        limit(Resource::RLIMIT_CPU, 1200, "seconds; decrypting and hashing 10 GiB, emulated"),
        limit(Resource::RLIMIT_AS, 1 << 30, "bytes; a document of 4 MiB several times, and the program"),
        limit(Resource::RLIMIT_NOFILE, 64, "a handful of connections and files"),
        limit(Resource::RLIMIT_NPROC, 0, "makes no process and no thread"),
        limit(Resource::RLIMIT_CORE, 0, "a dump would hold credentials"),
    ];
    let mut ports = vec![HTTPS_PORT, DNS_PORT];
    let more = request.registry.token_host.iter().chain(&request.registry.blob_hosts);
    let more = more.map(|host| format!("https://{host}")).chain([request.registry.endpoint.clone()]);
    for url in more {
        let url: Url = url.parse().with_context(|| format!("{url} is no address"))?;
        ports.extend(url.port_or_known_default());
    }
    let port =
        |port| PortRule { port, access: PortAccess::Connect, reason: "registry, tokens, blobs, names" };
    Ok(JailPlan { limits, paths: resolver_paths(), ports: ports.into_iter().map(port).collect() })
}

fn resolver_paths() -> Vec<PathRule> {
    let files = RESOLVER_FILES.iter().map(PathBuf::from);
    let paths = files.filter_map(|file| std::fs::canonicalize(file).ok()).filter(|path| path.is_file());
    let rule = |path| PathRule { path, access: Access::Read, reason: "how names are resolved" };
    // Written anew when the network changes, so the file's directory and not the file, unless that is all of /etc.
    let beside = |path: &Path| path.parent().filter(|dir| !dir.starts_with("/etc")).map(Path::to_owned);
    paths.map(|path| rule(beside(&path).unwrap_or(path))).collect()
}

/// What the helper may call.
pub(crate) fn filter() -> SyscallFilter {
    let rules = vec![
        allow!(SYS_read, "connections, the agent's end of the pipe, how names are resolved"),
        allow!(SYS_readv, "the resolver reads what a cache of names says"),
        allow!(SYS_write, "the archive, what is said"),
        allow!(SYS_writev, "what connections carry"),
        allow!(SYS_openat, "how names are resolved; landlock says which"),
        allow!(SYS_close, "what was opened"),
        allow!(SYS_lseek, "how names are resolved"),
        allow!(SYS_fstat, "what kind of file standard input is"),
        allow!(SYS_newfstatat, "whether the resolver's settings have changed"),
        allow!(SYS_fcntl, "a connection does not block"),
        allow!(SYS_mmap, arg 2 without libc::PROT_EXEC, "libc's allocator"),
        allow!(SYS_mprotect, arg 2 without libc::PROT_EXEC, "libc's allocator"),
        allow!(SYS_munmap, "libc's allocator"),
        allow!(SYS_mremap, "growing large buffers"),
        allow!(SYS_madvise, "libc's allocator gives back"),
        allow!(SYS_brk, "libc's allocator"),
        allow!(SYS_futex, "locks, and what is done once"),
        allow!(SYS_getrandom, "keys, seeds of hash tables"),
        allow!(SYS_clock_gettime, "where the clock cannot be read without the kernel"),
        allow!(SYS_gettimeofday, "where the clock cannot be read without the kernel"),
        allow!(SYS_uname, "the resolver asks for the host's name"),
        allow!(SYS_sysinfo, "libc asks how much memory there is before it sorts"),
        allow!(SYS_socket, arg 0 = libc::AF_INET, "registry, names"),
        allow!(SYS_socket, arg 0 = libc::AF_INET6, "registry, names"),
        allow!(SYS_socket, arg 0 = libc::AF_UNIX, "the resolver looks for a cache"),
        allow!(SYS_socket, arg 0 = libc::AF_NETLINK, "the resolver asks which addresses this host has"),
        allow!(SYS_socketpair, arg 0 = libc::AF_UNIX, "how the runtime would hear of signals"),
        allow!(SYS_bind, "which address a packet would have; the resolver's netlink"),
        allow!(SYS_connect, "registry, names; landlock says at which ports"),
        allow!(SYS_shutdown, "the end of a connection"),
        allow!(SYS_sendto, "what connections carry, names"),
        allow!(SYS_sendmmsg, "the resolver asks for both kinds of address at once"),
        allow!(SYS_recvfrom, "what connections carry, names"),
        allow!(SYS_recvmsg, "the resolver's netlink"),
        allow!(SYS_getsockopt, "how a connection went"),
        allow!(SYS_setsockopt, "how a connection is"),
        allow!(SYS_getsockname, "which address a packet would have"),
        allow!(SYS_getpeername, "who is connected"),
        allow!(SYS_ioctl, "how much has come of an answer; landlock leaves no device to ask things of"),
        allow!(SYS_poll, "the resolver waits"),
        allow!(SYS_epoll_create1, "the runtime waits"),
        allow!(SYS_epoll_ctl, "the runtime waits"),
        allow!(SYS_epoll_wait, "the runtime waits"),
        allow!(SYS_eventfd2, "the runtime is woken"),
        allow!(SYS_rt_sigprocmask, "libc blocks signals while it sets up its random generator"),
        allow!(SYS_sigaltstack, "Rust takes its stack guard down at the end"),
        allow!(SYS_restart_syscall, "a wait goes on after a stop"),
        allow!(SYS_exit_group, "the end of the process"),
    ];
    SyscallFilter::new("pull-image", rules)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{Access, Credential, Pace, Reference};

    #[test]
    fn the_jail_has_the_places_of_the_request_and_no_file_to_write() {
        let registry = Access {
            endpoint: "https://registry.example:5000".into(),
            authorities: String::new(),
            credential: Credential::Nobody,
            token_host: Some("auth.example:8443".into()),
            blob_hosts: vec!["10.0.0.1:9000".into()],
        };
        let pace = Pace {
            silence: Default::default(),
            window: Default::default(),
            window_len: 0,
            pause: Default::default(),
        };
        let (repository, reference) = ("app".into(), Reference::Tag("v1".into()));
        let wanted = Wanted::Archive { max_len: 7 };
        let plan = plan(&Request { registry, repository, reference, wanted, pace }).unwrap();
        let ports: Vec<_> = plan.ports.iter().map(|rule| (rule.port, rule.access)).collect();
        assert_eq!(ports, [443, 53, 8443, 9000, 5000].map(|port| (port, PortAccess::Connect)));
        assert!(plan.paths.iter().all(|rule| rule.access == jail::Access::Read), "{:?}", plan.paths);
        assert!(!plan.paths.iter().any(|rule| rule.path == Path::new("/etc")), "{:?}", plan.paths);
        let bound = plan.limits.iter().find(|limit| limit.resource == Resource::RLIMIT_FSIZE);
        assert_eq!(bound.map(|limit| limit.value), Some(7));
    }

    #[test]
    fn the_filter_lets_it_start_nothing() {
        let filter = filter();
        filter.compile().unwrap();
        for name in
            ["SYS_execve", "SYS_clone", "SYS_clone3", "SYS_fork", "SYS_listen", "SYS_kill", "SYS_unlink"]
        {
            assert!(!filter.rules.iter().any(|rule| rule.name == name), "{name}");
        }
    }
}
