//! The tests, one per pair, so that a filter can name them: `interop::pairs::fio::nbd_server`.

use super::cell::outcome;
use crate::client::Client;
use crate::peer::Server;
use crate::trouble::Trouble;

macro_rules! with_every_server {
    ($($module:ident: $client:ident),* $(,)?) => {
        $(mod $module {
            use super::*;

            with_every_server!(@ $client:
                nbdkit_memory: NbdkitMemory,
                nbdkit_file: NbdkitFile,
                nbdkit_data: NbdkitData,
                nbdkit_read_only: NbdkitReadOnly,
                nbdkit_one_request_at_a_time: NbdkitNoParallel,
                nbdkit_without_multi_conn: NbdkitNoMultiConn,
                nbdkit_with_simple_replies: NbdkitSimple,
                nbdkit_with_a_block_size_policy: NbdkitBlocks,
                nbdkit_that_is_slow: NbdkitDelay,
                nbdkit_without_write_zeroes: NbdkitNoZero,
                nbdkit_without_fua: NbdkitNoFua,
                nbdkit_that_emulates: NbdkitEmulated,
                qemu_nbd_for_one_client: QemuNbd,
                qemu_nbd_shared: QemuNbdShared,
                qemu_nbd_with_qcow2: QemuNbdQcow2,
                qemu_storage_daemon: StorageDaemon,
                nbd_server: Reference,
            );
        })*
    };
    (@ $client:ident: $($server:ident: $variant:ident),* $(,)?) => {
        $(#[test]
        fn $server() -> Result<(), Trouble> {
            outcome(Client::$client, Server::$variant)
        })*

        #[test]
        fn no_server_is_left_out() {
            assert_eq!([$(Server::$variant),*].as_slice(), Server::ALL);
        }
    };
}

with_every_server! {
    qemu_img_info: QemuImgInfo,
    qemu_img_convert: QemuImgConvert,
    qemu_img_compare: QemuImgCompare,
    qemu_img_map: QemuImgMap,
    qemu_io: QemuIo,
    nbdinfo: Nbdinfo,
    nbdinfo_map: NbdinfoMap,
    nbdcopy: Nbdcopy,
    libnbd_python: Libnbd,
    fio: Fio,
    nbd_client_list: NbdClientList,
}
