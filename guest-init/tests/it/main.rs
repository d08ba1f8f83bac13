//! The sandbox without a guest: an HTTP client plays the runtime, the tests play the agent, and a book of what was done
//! stands in for the kernel. What is real: the Runtime API's server, the frames, the state machine, the gate, the pipe.

mod extensions;
mod restore;
mod runtime_api;
mod telemetry;
mod world;
