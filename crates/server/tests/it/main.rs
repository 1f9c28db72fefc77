//! A server over real sockets, asked by the client and by bare gRPC.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "what these tests stand on"
)]

mod admission;
mod background;
mod bindings;
mod bodies;
mod bounds;
mod catalog;
mod events;
mod historical;
mod materializations;
mod reads;
mod refusals;
mod server;
mod shutdown;
mod streams;
mod windowed;
