//! A server over real sockets, asked by the client and by bare gRPC.

mod bounds;
mod catalog;
mod materializations;
mod reads;
mod refusals;
mod server;
mod shutdown;
mod streams;
