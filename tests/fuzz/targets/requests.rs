//! A client's bytes into admitted requests.
#![no_main]

nbd_gateway_fuzz::target!("requests");
