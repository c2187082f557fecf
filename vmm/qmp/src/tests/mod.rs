//! Conversations with the QMP server: over a session without I/O, and over real sockets.

mod conversation;
mod sockets;
