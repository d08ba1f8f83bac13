//! What is run in the function's view: which program, with which arguments, and where. Pure.

use std::ffi::{CStr, CString, NulError};

use guest_protocol::Container;

use crate::environment::Environment;

/// [`crate::environment::TASK_ROOT`], as system calls take it.
pub(super) const TASK_ROOT_PATH: &CStr = c"/var/task";

/// Where extensions of a container image are run: it need not have a `/var/task`.
pub(super) const ROOT_PATH: &CStr = c"/";

/// A program that is to be run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Program {
    /// Where it may be, best first.
    pub(super) candidates: Vec<CString>,
    /// What it is called by, and its arguments.
    pub(super) arguments: Vec<CString>,
    /// Where it begins.
    pub(super) folder: CString,
}

impl Program {
    /// A file without arguments.
    pub(super) fn at(path: &str, folder: &CStr) -> Result<Self, NulError> {
        let path = CString::new(path)?;
        Ok(Self { candidates: vec![path.clone()], arguments: vec![path], folder: folder.to_owned() })
    }

    /// A wrapper in the place of an image's own bootstrap: it is given the interpreter that the bootstrap's first line names, with
    /// its argument, and the bootstrap, and is to run them. A bootstrap without such a line is a program by itself.
    pub(super) fn wrapped(
        wrapper: &str,
        bootstrap: &str,
        beginning: &[u8],
        folder: &CStr,
    ) -> Result<Self, NulError> {
        let line = beginning.strip_prefix(b"#!").and_then(|rest| rest.split(|byte| *byte == b'\n').next());
        // As the kernel reads it: all that follows the interpreter is one argument.
        let line = line.unwrap_or_default().trim_ascii();
        let (interpreter, argument) = match line.iter().position(u8::is_ascii_whitespace) {
            Some(at) => (&line[..at], line[at..].trim_ascii()),
            None => (line, &line[line.len()..]),
        };
        let given = [wrapper.as_bytes(), interpreter, argument, bootstrap.as_bytes()];
        let arguments: Result<_, _> =
            given.into_iter().filter(|part| !part.is_empty()).map(CString::new).collect();
        Ok(Self {
            candidates: vec![CString::new(wrapper)?],
            arguments: arguments?,
            folder: folder.to_owned(),
        })
    }

    /// What a container image runs; `None` if that is nothing. As execvp(3) has it, a name without a slash is looked for in `PATH`.
    pub(super) fn of(container: &Container, environment: &Environment) -> Result<Option<Self>, NulError> {
        let Container { arguments, working_directory, .. } = container;
        let Some(name) = arguments.first().filter(|name| !name.is_empty()) else { return Ok(None) };
        let candidates: Result<_, _> = if name.contains('/') {
            [name.as_str()].map(CString::new).into_iter().collect()
        } else {
            let folders =
                environment.get("PATH").unwrap_or_default().split(':').filter(|folder| !folder.is_empty());
            folders.map(|folder| CString::new(format!("{folder}/{name}"))).collect()
        };
        let arguments: Result<_, _> =
            arguments.iter().map(|argument| CString::new(argument.as_str())).collect();
        Ok(Some(Self {
            candidates: candidates?,
            arguments: arguments?,
            folder: CString::new(working_directory.as_str())?,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::tests::start;

    fn program(arguments: &[&str], path: &str) -> Option<Program> {
        let container = Container {
            arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
            working_directory: "/app".into(),
            environment: vec![("PATH".into(), path.into())],
        };
        let start = guest_protocol::Start { container: Some(container.clone()), ..start() };
        Program::of(&container, &Environment::of(&start, "x", None)).unwrap()
    }

    #[test]
    fn a_wrapper_is_given_the_interpreter_and_what_it_runs() {
        let wrapped = |beginning: &[u8]| {
            let program =
                Program::wrapped("/opt/w", "/var/runtime/bootstrap", beginning, c"/var/task").unwrap();
            assert_eq!(program.candidates, [CString::from(c"/opt/w")]);
            let arguments = program.arguments.into_iter().map(|part| part.into_string().unwrap());
            arguments.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(wrapped(b"#!/usr/bin/node\nx"), "/opt/w /usr/bin/node /var/runtime/bootstrap");
        assert_eq!(wrapped(b"#! /bin/java  @/o p \n"), "/opt/w /bin/java @/o p /var/runtime/bootstrap");
        for program in [b"\x7fELF".as_slice(), b"", b"#!\n"] {
            assert_eq!(wrapped(program), "/opt/w /var/runtime/bootstrap");
        }
        assert!(Program::wrapped("/opt/\0", "/b", b"", c"/").is_err());
    }

    #[test]
    fn a_name_is_looked_for_and_a_path_is_not() {
        let found = program(&["sh", "-c", "x"], "/bin::/usr/bin").unwrap();
        assert_eq!(found.candidates, [CString::from(c"/bin/sh"), CString::from(c"/usr/bin/sh")]);
        assert_eq!(found.arguments, [CString::from(c"sh"), CString::from(c"-c"), CString::from(c"x")]);
        assert_eq!(found.folder.as_c_str(), c"/app");
        assert_eq!(program(&["./run"], "/bin").unwrap().candidates, [CString::from(c"./run")]);
    }

    #[test]
    fn nothing_is_no_program() {
        assert_eq!(program(&[], "/bin"), None);
        assert_eq!(program(&["", "x"], "/bin"), None);
    }
}
