use super::*;

#[test]
fn a_write_that_failed_is_a_trouble_until_one_succeeds() {
    let full = || "no space left".to_owned();
    assert_eq!(CommitResult::Failed(full()).trouble(), Some(full()));
    let half = CommitResult::Journaled(vec![StoreResult::Done, StoreResult::Failed(full())]);
    assert_eq!(half.trouble(), Some(full()));
    for well in [vec![], vec![StoreResult::Done]] {
        assert_eq!(CommitResult::Journaled(well).trouble(), None);
    }
}
