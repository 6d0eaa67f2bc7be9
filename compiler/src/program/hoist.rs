//! Early updates: what ends a step runs as soon as what it reads is final, instead of after everything else, so that the gradient of a layer
//! does not wait for those of all others.

use super::{Launch, SlotId};

/// Moves each launch from number `first` on to the earliest place where it computes the same.
pub fn hoist(launches: &mut [Launch], first: usize) {
    for number in first..launches.len() {
        let earliest = (0..number).rev().find(|&earlier| conflict(&launches[earlier], &launches[number])).map_or(0, |last| last + 1);
        launches[earliest..=number].rotate_right(1);
    }
}

/// Whether two launches must keep their order: one writes what the other touches.
fn conflict(a: &Launch, b: &Launch) -> bool {
    let writes =
        |launch: &Launch, slot: SlotId| launch.arguments.iter().zip(&launch.writes).any(|((own, _), write)| *write && *own == slot);
    let touches = |launch: &Launch, other: &Launch| launch.arguments.iter().any(|(slot, _)| writes(other, *slot));
    touches(a, b) || touches(b, a)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `label`, which writes slot 0 of `slots` and reads the others.
    fn launch(label: &str, slots: &[usize]) -> Launch {
        let arguments: Vec<_> = slots.iter().map(|&slot| (SlotId(slot), 0)).collect();
        let writes = (0..slots.len()).map(|i| i == 0).collect();
        Launch { kernel: 0, arguments, writes, label: label.to_owned() }
    }

    #[test]
    fn updates_follow_the_last_that_needs_their_weight() {
        // Slots: weights 0 and 1, gradients 2 and 3, the copies that backward reads 4 and 5.
        let mut launches = [
            launch("forward a", &[9, 0]),
            launch("forward b", &[9, 1]),
            launch("backward b", &[3, 5, 9]),
            launch("backward a", &[2, 4, 9]),
            launch("update a", &[0, 2]),
            launch("update b", &[1, 3]),
            launch("refresh a", &[4, 0]),
            launch("refresh b", &[5, 1]),
        ];
        hoist(&mut launches, 4);
        let order: Vec<&str> = launches.iter().map(|launch| launch.label.as_str()).collect();
        let wanted = ["forward a", "forward b", "backward b", "update b", "refresh b", "backward a", "update a", "refresh a"];
        assert_eq!(order, wanted);
    }
}
