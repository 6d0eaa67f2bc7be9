use super::*;

const EXAMPLES: usize = 100;

fn sampling(rule: Rule) -> Selective {
    Selective::new(rule, EXAMPLES, 10, 7)
}

/// Presents every example of the epoch: its last digit d is predicted rightly in epoch 0 and wherever d is no multiple of epoch + 1 (0 always, 9 never).
fn present(sampling: &mut Selective, epoch: usize) -> Vec<u32> {
    sampling.begin(epoch);
    let order = sampling.order(epoch);
    for &example in &order {
        let kind = example as usize % 10;
        sampling.record(example, kind != 9 && (kind == 0 || epoch == 0 || !kind.is_multiple_of(epoch + 1)));
    }
    sampling.end();
    order
}

fn sorted(mut examples: Vec<u32>) -> Vec<u32> {
    examples.sort_unstable();
    examples
}

#[test]
fn the_least_forgotten_go_for_good_at_their_epoch() {
    let mut sampling = sampling(Rule::Remove(Removal::Number(15), RemovalMoment::Epoch(4)));
    for epoch in 0..4 {
        assert_eq!(sorted(present(&mut sampling, epoch)), (0..100).collect::<Vec<_>>());
        assert_eq!(sampling.removed(), 0);
    }
    let counts: Vec<Option<u8>> = (0..100).map(|example| sampling.log.forgotten(example)).collect();
    for epoch in 4..8 {
        let order = present(&mut sampling, epoch);
        assert_eq!((order.len(), sampling.removed()), (85, 15));
        let most = sampling.removed.iter().map(|&example| counts[example as usize].expect("learned")).max();
        let least = order.iter().filter_map(|&example| counts[example as usize]).min();
        assert!(most <= least, "{most:?} {least:?}");
        assert!(order.iter().all(|example| !sampling.removed.contains(example)));
    }
}

#[test]
fn all_unforgettable_examples_go_and_those_never_learned_stay() {
    for (times, kinds) in [(0, vec![0, 1, 5, 7]), (1, vec![0, 1, 2, 3, 5, 6, 7])] {
        let mut sampling = sampling(Rule::Remove(Removal::Unforgettable(times), RemovalMoment::Epoch(4)));
        (0..4).for_each(|epoch| drop(present(&mut sampling, epoch)));
        let by_hand: Vec<u32> = (0..100).filter(|&example| sampling.log.forgotten(example).is_some_and(|count| count <= times)).collect();
        assert_eq!(sampling.unforgettable(), Some(if times == 0 { by_hand.len() } else { 40 }));
        sampling.begin(4);
        assert_eq!(sorted(sampling.removed.clone()), by_hand);
        let removed_kinds: std::collections::BTreeSet<u32> = by_hand.iter().map(|example| example % 10).collect();
        assert_eq!(removed_kinds.into_iter().collect::<Vec<_>>(), kinds);
    }
}

#[test]
fn a_batch_stays_whatever_the_rule_says() {
    for removal in [Removal::Number(1000), Removal::Share(0.99), Removal::Unforgettable(127)] {
        let mut sampling = sampling(Rule::Remove(removal, RemovalMoment::Epoch(1)));
        sampling.begin(0);
        (0..100).for_each(|example| sampling.record(example, true));
        sampling.begin(1);
        assert_eq!(sampling.order(1).len(), 10, "{removal:?}");
    }
}

#[test]
fn removal_waits_until_the_count_has_settled() {
    let mut sampling = sampling(Rule::Remove(Removal::Unforgettable(0), RemovalMoment::Settled));
    let mut removed = Vec::new();
    for epoch in 0..8 {
        sampling.begin(epoch);
        removed.push(sampling.removed());
        // Ten more are learned in each of the first three epochs.
        let learned = 10 * (epoch as u32 + 1).min(3);
        (0..100).for_each(|example| sampling.record(example, example < learned));
        sampling.end();
    }
    assert_eq!(removed, [0, 0, 0, 0, 0, 0, 30, 30], "still from epoch 2 to 5");
}

#[test]
fn nothing_is_removed_while_nothing_is_learned() {
    let mut sampling = sampling(Rule::Remove(Removal::Unforgettable(0), RemovalMoment::Settled));
    for epoch in 0..8 {
        sampling.begin(epoch);
        assert_eq!(sampling.order(epoch).len(), 100);
        (0..100).for_each(|example| sampling.record(example, false));
        sampling.end();
    }
}

#[test]
fn sieved_examples_come_back() {
    let mut sampling = sampling(Rule::Sieve { share: 0.2, every: 2 });
    let mut epochs = Vec::new();
    for epoch in 0..12 {
        let before = sampling.removed.clone();
        let order = present(&mut sampling, epoch);
        assert_eq!((order.len(), sampling.removed()), (80, 20));
        let out = sorted(sampling.removed.clone());
        assert!(out.is_sorted_by(|a, b| a < b) && order.iter().all(|example| !out.contains(example)));
        if epoch % 2 == 0 && epoch > 0 {
            assert!(before.iter().all(|example| order.contains(example)), "what was out is in again");
        }
        epochs.push(out);
    }
    assert!(epochs[0] == epochs[1] && epochs[1] != epochs[2]);
}

#[test]
fn more_than_half_out_come_back_in_the_order_they_left() {
    let mut sampling = sampling(Rule::Sieve { share: 0.7, every: 1 });
    sampling.begin(0);
    let first = sampling.removed.clone();
    sampling.begin(1);
    assert_eq!(sampling.removed[..40], first[30..], "thirty places, the earliest removed take them");
    assert_eq!(sorted(sampling.order(1)), sorted(first[..30].to_vec()));
}

#[test]
fn the_state_comes_back_and_damaged_ones_do_not() {
    let rule = Rule::Sieve { share: 0.3, every: 3 };
    let mut whole = sampling(rule);
    (0..4).for_each(|epoch| drop(present(&mut whole, epoch)));
    let state = whole.state().expect("it counts");
    let mut resumed = sampling(rule);
    resumed.restore(Some(&state)).expect("its own state");
    for epoch in 4..9 {
        assert_eq!(present(&mut whole, epoch), present(&mut resumed, epoch));
    }
    assert_eq!(whole.state(), resumed.state());

    let refused = |change: &dyn Fn(&mut SamplingState)| {
        let mut damaged = state.clone();
        change(&mut damaged);
        sampling(rule).restore(Some(&damaged)).expect_err("damaged")
    };
    assert!(refused(&|state| state.log.truncate(99)).contains("99 examples where there are 100"));
    assert!(refused(&|state| state.removed[0] = 100).contains("leaves out"));
    assert!(refused(&|state| state.removed[0] = state.removed[1]).contains("leaves out"));
    assert!(sampling(rule).restore(None).is_err());
}
