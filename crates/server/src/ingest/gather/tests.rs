use weir_log::PartOutcome;

use super::stored_of;

#[test]
fn each_request_is_told_of_its_own_rows() {
    let outcome = PartOutcome { stored: 4, duplicates: vec![0, 3, 4] };
    let requests = [(0, 1), (1, 2), (3, 2), (5, 2)];
    let stored = requests.map(|(first, count)| stored_of(&outcome, first, count));
    assert_eq!(stored, [0, 2, 0, 2]);
}
