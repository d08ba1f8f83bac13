//! The launcher as a program: what it starts is looked at from outside, which is where everything about a room can be seen.
//! These tests need root and cgroup v2, and what is started in the rooms are programs of a few instructions.

#![expect(unsafe_code, reason = "descriptors that arrive as numbers")]

mod ends;
mod host;
mod program;
mod refusals;
mod rooms;
mod steps;
mod unit;
mod user;
mod watched;
