//! What this process may still do once it knows its configuration: the jail's plan and one filter for all its threads.
//!
//! `main` puts both on while it has one thread, so every thread and every helper has them, whoever started the agent: systemd's
//! unit is a second layer where there is one. The helpers (`code::confined`, `mkfs.ext4`) inherit what is here, so this allows
//! what they call; those that read what a customer wrote allow themselves much less.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use jail::{
    Access, Entered, JailPlan, Limit, PathRule, PortAccess, PortRule, Resource, SyscallFilter, SyscallRule,
    absent, allow, libc,
};

use crate::{
    code::confined,
    config::{self, BucketPlace, Config, DestinationPlace, TlsSource},
    sandbox::scratch,
};

/// Every namespace that a process can be made with.
const NAMESPACES: libc::c_int = libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET;

/// Where names are asked for, when an answer is too long for a datagram.
const DNS_PORT: u16 = 53;

/// Where a registry may have its blobs, if nothing else is said.
const BLOBS_PORT: u16 = 443;

/// Confines the calling thread, which is the only one, and what it makes from now on.
///
/// # Errors
/// The step that the kernel refused. The process should end.
pub(crate) fn enter(config: &Config) -> anyhow::Result<Entered> {
    let filter = filter().compile().context("cannot compile the system call filter")?;
    let entered = plan(config)?.enter().context("cannot enter the jail")?;
    filter.apply().context("cannot apply the system call filter")?;
    Ok(entered)
}

fn plan(config: &Config) -> anyhow::Result<JailPlan> {
    let core = Limit {
        resource: Resource::RLIMIT_CORE,
        value: 0,
        reason: "memory holds keys, and what customers sent",
    };
    Ok(JailPlan { limits: vec![core], paths: paths(config)?, ports: ports(config) })
}

/// Without those that are not there: whoever wants to open them says so.
fn paths(config: &Config) -> anyhow::Result<Vec<PathRule>> {
    let own = std::env::current_exe().context("cannot find this program")?;
    let rule = |path: &Path, access, reason| PathRule { path: path.to_owned(), access, reason };
    let mut rules = vec![
        rule(&config.state_dir, Access::ReadWrite, "functions, code, chunks, snapshots"),
        rule(&config.lib_dir, Access::Read, "guest kernel and initrd, runtimes"),
        rule("/etc".as_ref(), Access::Read, "how names are resolved; settings of the loader and mkfs.ext4"),
        rule("/proc/meminfo".as_ref(), Access::Read, "how much memory sandboxes may have"),
        rule("/dev/null".as_ref(), Access::ReadWrite, "helpers' standard input"),
        rule(&own, Access::ReadExecute, "the helpers are this program"),
        rule(&config.mkfs_erofs, Access::ReadExecute, "makes images of code"),
    ];
    let mkfs = scratch::mkfs_ext4_paths();
    rules.extend(mkfs.map(|path| rule(&path, Access::ReadExecute, "makes templates of /tmp")));
    let libraries = confined::libraries();
    rules.extend(libraries.map(|path| rule(&path, Access::ReadExecute, "what the helpers are linked with")));
    // Written anew when the network changes, so the file's directory and not the file.
    let resolver = std::fs::canonicalize("/etc/resolv.conf").ok();
    let resolver = resolver.as_deref().and_then(Path::parent).filter(|dir| !dir.starts_with("/etc"));
    rules.extend(resolver.map(|dir| rule(dir, Access::Read, "who resolves names")));
    rules.extend(certificates(config).map(|path| rule(path, Access::Read, "who peers and the origin are")));
    let directories = config.events.destinations.iter().filter_map(|one| match &one.place {
        DestinationPlace::Directory(path) => Some(path),
        DestinationPlace::Bucket(_) | DestinationPlace::Webhook(_) => None,
    });
    rules
        .extend(directories.map(|path| rule(path, Access::ReadWrite, "what events' destinations are given")));
    for bucket in &config.code_buckets {
        if let BucketPlace::Directory(path) = &bucket.place {
            rules.push(rule(path, Access::Read, "a bucket that code comes from"));
        }
    }
    let registries = config.registries.iter().flat_map(|registry| registry.secret_file());
    // Renewed as a certificate is, by another file in its place.
    let secrets = registries.filter_map(|file| file.parent());
    rules.extend(secrets.map(|dir| rule(dir, Access::Read, "who the node is to a registry")));
    rules.extend(renewed(config).map(|dir| rule(&dir, Access::Read, "the certificate, which is renewed")));
    rules.retain(|rule| rule.path.exists());
    Ok(rules)
}

fn certificates(config: &Config) -> impl Iterator<Item = &Path> {
    let own = config.chunks.cluster.iter().filter_map(|cluster| cluster.certificates.as_ref());
    let own = own.flat_map(|files| [&files.ca, &files.certificate, &files.key]);
    own.chain(config.chunks.origin.iter().map(|bucket| &bucket.ca)).map(PathBuf::as_path)
}

/// Folders in which the files of clients' certificate are, by their names and where those lead: who renews one puts another file into
/// its place.
fn renewed(config: &Config) -> impl Iterator<Item = PathBuf> {
    let files = match config.tls.as_ref().map(|tls| &tls.source) {
        Some(TlsSource::Files { certificate, key }) => vec![certificate, key],
        _ => Vec::new(),
    };
    let both = files.into_iter().flat_map(|path| [Some(path.clone()), path.canonicalize().ok()]);
    both.flatten().filter_map(|path| path.parent().map(Path::to_owned))
}

fn ports(config: &Config) -> Vec<PortRule> {
    let rule = |port, access, reason| PortRule { port, access, reason };
    let mut rules = vec![rule(config.listen.port(), PortAccess::Listen, "clients")];
    let urls = config.function_urls.listen.iter();
    rules.extend(urls.map(|own| rule(own.port(), PortAccess::Listen, "clients of functions' URLs")));
    if let Some(cluster) = &config.chunks.cluster {
        rules.push(rule(cluster.listen.port(), PortAccess::Listen, "peers"));
        let peers = cluster.peers.iter();
        rules.extend(peers.map(|peer| rule(peer.address.port(), PortAccess::Connect, "peers")));
    }
    if let Some(bucket) = &config.chunks.origin {
        rules.push(rule(port_of(bucket.endpoint.as_deref()), PortAccess::Connect, "the origin of chunks"));
        rules.push(rule(DNS_PORT, PortAccess::Connect, "the origin's name"));
    }
    for destination in &config.events.destinations {
        let port = match &destination.place {
            DestinationPlace::Directory(_) => continue,
            DestinationPlace::Bucket(bucket) => port_of(bucket.endpoint.as_deref()),
            DestinationPlace::Webhook(webhook) => config::port_of(&webhook.url),
        };
        rules.push(rule(port, PortAccess::Connect, "a destination of events"));
        rules.push(rule(DNS_PORT, PortAccess::Connect, "a destination's name"));
    }
    for bucket in &config.code_buckets {
        if let BucketPlace::Service(service) = &bucket.place {
            let port = port_of(service.endpoint.as_deref());
            rules.push(rule(port, PortAccess::Connect, "a bucket that code comes from"));
            rules.push(rule(DNS_PORT, PortAccess::Connect, "its name"));
        }
    }
    for registry in &config.registries {
        let named = registry.ports().chain([BLOBS_PORT]);
        rules.extend(named.map(|port| rule(port, PortAccess::Connect, "a registry, by its helper")));
        rules.push(rule(DNS_PORT, PortAccess::Connect, "a registry's name"));
    }
    rules
}

/// The port of `https://HOST[:PORT]`, which was checked; without an endpoint, that of AWS's.
fn port_of(endpoint: Option<&str>) -> u16 {
    config::port_of(&endpoint.and_then(|endpoint| endpoint.parse().ok()).unwrap_or_default())
}

fn filter() -> SyscallFilter {
    let rules = [memory_and_threads(), files(), sockets(), helpers()].concat();
    SyscallFilter::new("host-agent", rules)
}

fn memory_and_threads() -> Vec<SyscallRule> {
    vec![
        allow!(SYS_brk, "libc's allocator"),
        allow!(SYS_mmap, arg 2 without libc::PROT_EXEC, "libc's allocator, files, stacks"),
        allow!(SYS_mmap, arg 2 without libc::PROT_WRITE, "code of libraries, which nobody writes"),
        allow!(SYS_mprotect, arg 2 without libc::PROT_EXEC, "stacks, arenas, the loader's relocations"),
        allow!(SYS_munmap, "libc's allocator"),
        allow!(SYS_mremap, "growing large buffers"),
        allow!(SYS_madvise, "libc's allocator gives back"),
        allow!(SYS_futex, "locks and channels"),
        allow!(SYS_getrandom, "keys, nonces, seeds of hash tables"),
        absent!(
            SYS_clone3,
            "its flags are out of a filter's sight; libc makes threads and helpers by clone then"
        ),
        allow!(SYS_clone, arg 0 without NAMESPACES, "threads and helpers"),
        allow!(SYS_set_robust_list, "libc's start of a thread"),
        allow!(SYS_rseq, "libc's start of a thread"),
        allow!(SYS_sigaltstack, "the standard library's stack guard"),
        allow!(SYS_sched_getaffinity, "how many threads are worth while"),
        allow!(SYS_sched_yield, "contended locks"),
        allow!(SYS_rt_sigaction, "SIGTERM; handlers of a helper that begins"),
        allow!(SYS_rt_sigprocmask, "threads and helpers begin with signals blocked"),
        allow!(SYS_rt_sigreturn, "the end of a handler"),
        allow!(SYS_prctl, arg 0 = libc::PR_SET_NAME, "threads have names"),
        allow!(SYS_clock_gettime, "where the clock cannot be read without the kernel"),
        allow!(SYS_clock_nanosleep, "a thread waits for a moment"),
        allow!(SYS_gettimeofday, "where the clock cannot be read without the kernel"),
        allow!(SYS_restart_syscall, "a wait goes on after a stop"),
        allow!(SYS_gettid, "abort raises a signal; threads are told apart"),
        allow!(SYS_getpid, "abort raises a signal; helpers' files"),
        allow!(SYS_tgkill, arg 2 = libc::SIGABRT, "abort on a broken invariant"),
        allow!(SYS_exit, "the end of a thread"),
        allow!(SYS_exit_group, "the end of the process"),
    ]
}

/// Landlock says which files.
fn files() -> Vec<SyscallRule> {
    vec![
        allow!(SYS_openat, "state, images, tables that were sealed"),
        allow!(SYS_close, "what was opened"),
        allow!(SYS_read, "files, sockets, pipes"),
        allow!(SYS_readv, "the resolver reads what a cache of names says"),
        allow!(SYS_pread64, "stores, packs, copies of chunks"),
        allow!(SYS_write, "files, sockets, pipes, the log"),
        allow!(SYS_writev, "answers of several parts"),
        allow!(SYS_pwrite64, "stores, copies of chunks"),
        allow!(SYS_copy_file_range, "layers of /tmp, and what is left of a queue"),
        allow!(SYS_sendfile, "the same, where the file system cannot copy ranges"),
        allow!(SYS_lseek, "holes of sparse files"),
        allow!(SYS_statx, "lengths, what is there"),
        allow!(SYS_newfstatat, "lengths, what is there"),
        allow!(SYS_fstat, "lengths, what is there"),
        allow!(SYS_statfs, "how much room the disk has"),
        allow!(SYS_getdents64, "what an earlier agent left"),
        allow!(SYS_getcwd, "a backtrace names files from there"),
        allow!(SYS_access, "which settings the loader, mkfs.ext4 and the resolver have"),
        allow!(SYS_readlink, "where this program is; paths of the configuration"),
        allow!(SYS_fcntl, "what descriptors may be used for; seals of tables"),
        allow!(SYS_flock, "one agent for each state"),
        allow!(SYS_fsync, "what is said to be kept is"),
        allow!(SYS_fdatasync, "what is said to be kept is"),
        allow!(SYS_syncfs, "a snapshot's chunks, all at once"),
        allow!(SYS_ftruncate, "images, stores, tables"),
        allow!(SYS_fallocate, "room for copies of chunks; holes"),
        allow!(
            SYS_fadvise64,
            "images are read in order; what clones want first is read before the next one wants it"
        ),
        allow!(SYS_mkdir, "drafts, builds"),
        allow!(SYS_rename, "what is whole gets its name"),
        allow!(SYS_unlink, "what nobody needs"),
        allow!(SYS_unlinkat, "what nobody needs"),
        allow!(SYS_rmdir, "what nobody needs"),
        allow!(SYS_fchmod, "nobody opens a granted table to write to it"),
        allow!(SYS_memfd_create, "tables that a vmm is granted"),
    ]
}

fn sockets() -> Vec<SyscallRule> {
    vec![
        allow!(SYS_socket, arg 0 = libc::AF_INET, "clients, peers, the origin"),
        allow!(SYS_socket, arg 0 = libc::AF_INET6, "clients, peers, the origin"),
        allow!(SYS_socket, arg 0 = libc::AF_UNIX, "the launcher; the resolver looks for a cache"),
        allow!(SYS_socket, arg 0 = libc::AF_NETLINK, "the resolver asks which addresses this host has"),
        allow!(SYS_socketpair, arg 0 = libc::AF_UNIX, "a vmm's control socket, its asks, its connections"),
        allow!(SYS_bind, "clients and peers come to an address; the resolver's netlink"),
        allow!(SYS_listen, "clients and peers"),
        allow!(SYS_accept4, "clients and peers"),
        allow!(SYS_connect, "the launcher, peers, the origin"),
        allow!(SYS_shutdown, "the end of a connection"),
        allow!(SYS_sendto, "what connections carry"),
        allow!(SYS_sendmsg, "connections; descriptors for a vmm"),
        allow!(SYS_sendmmsg, "the resolver asks for both kinds of address at once"),
        allow!(SYS_recvfrom, "what connections carry"),
        allow!(SYS_recvmsg, "connections; descriptors of a vmm"),
        allow!(SYS_getsockopt, "how a connection went"),
        allow!(SYS_setsockopt, "how a connection is"),
        allow!(SYS_getsockname, "at which port it listens"),
        allow!(SYS_getpeername, "who connected"),
        allow!(SYS_ioctl, "how a socket waits; landlock leaves no device to ask things of"),
        allow!(SYS_epoll_create1, "the runtime waits"),
        allow!(SYS_epoll_ctl, "the runtime waits"),
        allow!(SYS_epoll_wait, "the runtime waits"),
        allow!(SYS_eventfd2, "the runtime is woken"),
        allow!(SYS_poll, "the resolver waits; so do asks of a vmm"),
        allow!(SYS_pipe2, "what a vmm or a helper says"),
    ]
}

/// To start them, to end them, and what they call beside the above.
fn helpers() -> Vec<SyscallRule> {
    vec![
        allow!(SYS_execve, "a helper becomes its program; landlock says which"),
        allow!(SYS_chdir, "a helper begins in its directory"),
        allow!(SYS_dup, "mkfs.erofs has its scratch data in the image's file"),
        allow!(SYS_dup2, "a helper's standard streams"),
        allow!(SYS_wait4, "a helper's end"),
        allow!(SYS_pidfd_open, "a helper's end is waited for"),
        allow!(SYS_kill, "a helper that takes too long; landlock leaves nobody else to signal"),
        allow!(SYS_arch_prctl, "libc's thread-local storage"),
        allow!(SYS_set_tid_address, "libc's start"),
        allow!(SYS_prlimit64, "a helper's limits; libc asks for the stack's size"),
        allow!(SYS_prctl, arg 0 = libc::PR_SET_DUMPABLE, "a helper confines itself"),
        allow!(SYS_prctl, arg 0 = libc::PR_GET_DUMPABLE, "mkfs.ext4 looks whether it may trust its environment"),
        allow!(SYS_prctl, arg 0 = libc::PR_SET_NO_NEW_PRIVS, "a helper confines itself"),
        allow!(SYS_landlock_create_ruleset, "a helper confines itself"),
        allow!(SYS_landlock_add_rule, "a helper confines itself"),
        allow!(SYS_landlock_restrict_self, "a helper confines itself"),
        allow!(SYS_seccomp, "a helper confines itself"),
        allow!(SYS_getuid, "mkfs.ext4 looks who it is"),
        allow!(SYS_geteuid, "mkfs.ext4 looks who it is"),
        allow!(SYS_getgid, "mkfs.ext4 looks who it is"),
        allow!(SYS_getegid, "mkfs.ext4 looks who it is"),
        allow!(SYS_uname, "mkfs.ext4 looks what the kernel can do; the resolver asks for the host's name"),
        allow!(SYS_sysinfo, "libc asks how much memory there is before it sorts"),
    ]
}

#[cfg(test)]
mod provoked;
#[cfg(test)]
mod tests;
