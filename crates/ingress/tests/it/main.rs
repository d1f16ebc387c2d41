//! The ingress between real sockets: clients on one side, stand-ins for sandboxes on the other.

mod access;
mod calls;
mod client;
mod crowd;
mod drain;
mod frames;
mod grpc;
mod hold;
mod hostile;
mod lanes;
mod latency;
mod loopback;
mod pool;
mod sandbox;
mod smuggle;
mod stream;
mod tls;
mod upgrade;
mod upload;
mod wake;
mod witness;
mod world;
