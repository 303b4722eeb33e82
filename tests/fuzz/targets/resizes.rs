//! Lists of wishes and faults through an export's coordinator.
#![no_main]

nbd_gateway_fuzz::target!("resizes");
