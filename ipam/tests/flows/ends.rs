//! DELs and the disk: success means that the end of the attachment is saved.

use std::time::Duration;

use berth_ipam::identity::TxnId;
use berth_ipam::ledger::io::*;

use crate::rig::{Rig, config, request};

fn del(rig: &mut Rig, conn: u64, txn: Option<TxnId>) {
    let caller = Caller { conn, call: 1 };
    rig.step(Input::Release(Some(caller), request(1).key, LinkRemoval::Gone, txn));
}

fn refuse(rig: &mut Rig) {
    rig.finish_commit(|_| CommitResult::Failed("no space".to_owned()));
}

fn is_refused(rig: &Rig, conn: u64) -> bool {
    matches!(rig.reply(conn), Some(Err(LedgerError::Storage(_))))
}

fn rig() -> Rig {
    let mut rig = Rig::new(config(2));
    rig.bound(1);
    rig.finish_all();
    rig.hold_commits = true;
    rig
}

#[test]
fn a_del_that_the_disk_refused_is_written_again_when_it_is_repeated() {
    let mut rig = rig();
    del(&mut rig, 10, None);
    refuse(&mut rig);
    assert!(is_refused(&rig, 10));
    del(&mut rig, 11, None);
    assert_eq!(rig.reply(11), None, "it is known, and not on the disk");
    refuse(&mut rig);
    assert!(is_refused(&rig, 11));
    del(&mut rig, 12, None);
    rig.finish_commit(CommitResult::Journaled);
    rig.pass(Duration::from_millis(300));
    assert!(matches!(rig.reply(12), Some(Ok(Reply::Done))));
    del(&mut rig, 13, None);
    assert!(rig.commits.is_empty(), "one that is saved is not written again");
}

#[test]
fn a_del_is_not_answered_before_it_is_saved_however_long_that_takes() {
    for txn in [None, Some(request(1).txn)] {
        let mut rig = rig();
        del(&mut rig, 10, txn.clone());
        del(&mut rig, 11, txn);
        rig.pass(Duration::from_secs(2));
        assert_eq!((rig.reply(10), rig.reply(11)), (None, None));
        rig.finish_commit(CommitResult::Journaled);
        rig.pass(Duration::from_millis(300));
        assert!(matches!(rig.reply(10), Some(Ok(Reply::Done))));
        assert!(matches!(rig.reply(11), Some(Ok(Reply::Done))));
    }
}
