//! A backend's bytes into the handshake of the connecting side.
#![no_main]

nbd_gateway_fuzz::target!("client_handshake");
