//! One heap for all threads. The C library would give each thread an arena of its own: memory that one microVM's few
//! small allocations do not need, and, at an arena's first use, a look into `/sys` that the jail does not allow.

#![expect(unsafe_code, reason = "mallopt is a C function")]

/// Called before any other thread exists.
pub(crate) fn use_one_heap() {
    // SAFETY: mallopt with M_ARENA_MAX sets one number of the allocator; no other thread allocates meanwhile. A C library
    // without arenas refuses, which changes nothing.
    let _ = unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}
