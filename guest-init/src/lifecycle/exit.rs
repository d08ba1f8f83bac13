//! How a runtime's process ended, and Lambda's words for it.

use guest_protocol::FunctionError;

/// The end of a runtime's process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It returned this status.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
    /// It could not be started, for this reason.
    NotStarted(String),
}

impl Exit {
    /// The error document of this end, with the request id when an invocation was under way.
    #[must_use]
    pub fn error(&self, request_id: Option<&str>) -> FunctionError {
        let (error_type, message) = match self {
            Self::Code(0) => ("Runtime.ExitError", "Runtime exited without providing a reason".to_owned()),
            Self::Code(code) => {
                ("Runtime.ExitError", format!("Runtime exited with error: exit status {code}"))
            }
            Self::Signal(signal) => {
                ("Runtime.ExitError", format!("Runtime exited with error: signal: {}", signal_name(*signal)))
            }
            Self::NotStarted(reason) => ("Runtime.InvalidEntrypoint", reason.clone()),
        };
        match request_id {
            Some(id) => FunctionError::of_request(id, error_type, &message),
            None => FunctionError::new(error_type, &message),
        }
    }
}

/// The signals' names as Lambda's messages have them (those of Go's `syscall.Signal`).
fn signal_name(signal: i32) -> String {
    let name = match signal {
        libc::SIGHUP => "hangup",
        libc::SIGINT => "interrupt",
        libc::SIGQUIT => "quit",
        libc::SIGILL => "illegal instruction",
        libc::SIGTRAP => "trace/breakpoint trap",
        libc::SIGABRT => "aborted",
        libc::SIGBUS => "bus error",
        libc::SIGFPE => "floating point exception",
        libc::SIGKILL => "killed",
        libc::SIGUSR1 => "user defined signal 1",
        libc::SIGSEGV => "segmentation fault",
        libc::SIGUSR2 => "user defined signal 2",
        libc::SIGPIPE => "broken pipe",
        libc::SIGALRM => "alarm clock",
        libc::SIGTERM => "terminated",
        libc::SIGXCPU => "CPU time limit exceeded",
        libc::SIGXFSZ => "file size limit exceeded",
        libc::SIGSYS => "bad system call",
        other => return format!("signal {other}"),
    };
    name.to_owned()
}
