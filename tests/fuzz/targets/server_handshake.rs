//! A client's bytes into the handshake.
#![no_main]

nbd_gateway_fuzz::target!("server_handshake");
