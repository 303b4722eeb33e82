//! A backend's bytes into the outcomes of requests.
#![no_main]

nbd_gateway_fuzz::target!("replies");
