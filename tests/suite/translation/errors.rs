//! Errors arrive as what they were.

use crate::client::run_python;
use crate::gateway::{Gateway, export};
use crate::image::Image;
use crate::peer::{Server, nbdkit};
use crate::route::Route;
use crate::scripted::backend::{Backend, Script};
use crate::scripted::numbers::{cmd, errno};
use crate::scripted::{Ask, Framing, RawClient};
use crate::trouble::{Trouble, ensure};

#[test]
fn a_read_error_keeps_its_number_and_its_offset() -> Result<(), Trouble> {
    for behind in Framing::ALL {
        let backend =
            Backend::start(Script { framing: behind, refuses: Some((cmd::READ, errno::EIO)), ..Script::default() })?;
        let gateway = Gateway::start(&export("", &backend.uri(), ""))?;
        for before in Framing::ALL {
            let (mut client, _) = RawClient::open(gateway.socket(), "", before)?;
            let reply = client.ask(Ask::read(1, 0x2_0000, 4096), &[])?;
            assert_eq!(reply.error, errno::EIO, "{before:?} in front of {behind:?}");
            if before != Framing::Simple && behind != Framing::Simple {
                assert_eq!(reply.error_offset, Some(0x2_0000), "{before:?} in front of {behind:?}");
            }
            // In step: the next one is answered.
            client.write(0, &[1; 512])?.success()?;
        }
        gateway.end()?;
    }
    Ok(())
}

#[test]
fn a_write_error_keeps_its_number_and_one_that_the_protocol_lacks_becomes_eio() -> Result<(), Trouble> {
    const ENOMEM: u32 = 12;
    for (error, expected) in [
        (errno::EPERM, errno::EPERM),
        (errno::EIO, errno::EIO),
        (ENOMEM, ENOMEM),
        (errno::ENOSPC, errno::ENOSPC),
        (9999, errno::EIO),
    ] {
        let backend = Backend::start(Script { refuses: Some((cmd::WRITE, error)), ..Script::default() })?;
        let gateway = Gateway::start(&export("", &backend.uri(), ""))?;
        for framing in Framing::ALL {
            let (mut client, _) = RawClient::open(gateway.socket(), "", framing)?;
            assert_eq!(client.write(0, &[1; 512])?.error, expected, "{error} to a {framing:?} client");
        }
        gateway.end()?;
    }
    Ok(())
}

#[test]
fn an_error_injected_by_nbdkit_reaches_libnbd_as_it_is() -> Result<(), Trouble> {
    let image = Image::sparse(7);
    let plugin = ["file", "DISK", "error-pwrite=ENOSPC", "error-pwrite-rate=100%", "error-pread=EIO"];
    let served = nbdkit(&["--filter=error"], &[&plugin[..], &["error-pread-rate=100%"]].concat(), &image)?;
    for route in [Route::Direct, Route::Gateway] {
        let way = route.open(&served)?;
        let said = run_python("translation/injected.py", &[way.target.uri()])?.success()?.stdout;
        assert_eq!(said, "EIO\nENOSPC\n", "{route:?}");
        way.close()?;
    }
    Ok(())
}

/// Every server of qemu's answers EINVAL here, and a VM above it would see I/O errors instead of being paused.
#[test]
fn a_write_past_the_end_of_a_qemu_server_is_enospc() -> Result<(), Trouble> {
    let served = Server::QemuNbd.start(&Image::sparse(8))?;
    let gateway = Gateway::in_front_of(&served)?;
    for framing in Framing::ALL {
        let (mut client, opened) = RawClient::open(gateway.socket(), served.export, framing)?;
        assert_eq!(client.write(opened.size, &[1; 4096])?.error, errno::ENOSPC, "past the end, {framing:?}");
        assert_eq!(client.write(opened.size - 512, &[1; 4096])?.error, errno::ENOSPC, "over the end, {framing:?}");
        let zeroes = Ask { command: cmd::WRITE_ZEROES, cookie: 3, offset: opened.size, length: 4096, ..Ask::default() };
        assert_eq!(client.ask(zeroes, &[])?.error, errno::ENOSPC, "zeroes past the end, {framing:?}");
        assert_eq!(client.ask(Ask::read(4, opened.size, 512), &[])?.error, errno::EINVAL, "a READ, {framing:?}");
        ensure(client.read(0, 512)?.len() == 512, || "the session is out of step".into())?;
        client.leave()?;
    }
    gateway.end()
}
