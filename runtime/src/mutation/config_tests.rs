use super::*;
use crate::mutation::policy;

fn config(name: &str) -> MutationConfig {
    MutationConfig::new(policy(name).expect("exists"))
}

fn at(epoch: usize, epochs: usize) -> Progress {
    Progress { epoch, epochs, iteration: epoch * 10, iterations: epochs * 10 }
}

/// The one error of a configuration at density 0.1, for 160 epochs of 10 iterations: (key, nearest, message).
fn refused(config: &MutationConfig) -> (&'static str, String, String) {
    let mut errors = config.validate(0.1, 160, 1600).expect_err("refused");
    assert_eq!(errors.len(), 1, "{errors:?}");
    let error = errors.remove(0);
    (error.key, error.nearest.clone(), error.to_string())
}

#[test]
fn defaults_are_those_of_the_paper_at_its_length() {
    let schedule = config("mest-ems").schedule(160, 125_120);
    assert_eq!(schedule.period, Period::Epochs(5));
    let stages: Vec<usize> = [0, 85, 90, 115, 120, 155].map(|epoch| schedule.stage(&at(epoch, 160))).to_vec();
    assert_eq!(stages, [0, 0, 1, 1, 2, 2]);
    assert_eq!(schedule.drop, [0.2, 0.1, 0.0]);
    for (target, expected) in [(0.1, [0.15, 0.125, 0.1]), (0.05, [0.10, 0.075, 0.05]), (0.02, [0.04, 0.03, 0.02])] {
        for (epoch, expected) in [0, 90, 120].into_iter().zip(expected) {
            assert!((schedule.intensity(target, &at(epoch, 160)).grown - expected).abs() < 1e-12);
        }
        assert!((config("mest-ems").peak_density(target) - expected[0]).abs() < 1e-12);
        assert_eq!(config("mest-em").peak_density(target), target);
        assert_eq!(config("static").peak_density(target), target);
        assert_eq!(config("dense").peak_density(target), 1.0);
    }
    assert_eq!(config("mest-ems").peak_density(0.97), 1.0, "never above all");
    for (name, capacity) in [("mest-ems", 0.15), ("mest-em", 0.1), ("set", 0.1), ("rigl", 0.2), ("snip", 1.0), ("dense", 1.0)] {
        assert!((config(name).capacity_density(0.1) - capacity).abs() < 1e-12, "{name}");
    }
    let rigl = config("rigl").schedule(160, 125_120);
    assert_eq!(rigl.drop[0], 0.3);
    assert!((rigl.intensity(0.1, &at(60, 160)).drop - 0.15).abs() < 1e-12 && rigl.intensity(0.1, &at(120, 160)).drop == 0.0);
}

#[test]
fn defaults_follow_the_length_of_the_run() {
    let period = |epochs, iterations| config("mest-em").period(epochs, iterations);
    assert_eq!(period(8, 800), Period::Epochs(1));
    assert_eq!(period(40, 800), Period::Epochs(1));
    assert_eq!(period(7, 640), Period::Iterations(20));
    assert_eq!(period(1, 5), Period::Iterations(1));
    for (epochs, iterations) in [(8, 80), (33, 330), (100, 1000), (1, 64), (7, 7000), (2, 4)] {
        assert_eq!(config("mest-ems").validate(0.1, epochs, iterations), Ok(()), "{epochs} epochs");
    }
}

#[test]
fn spans_count_in_their_own_unit() {
    let config = MutationConfig {
        every: Some(Span::Iterations(100)),
        stages: Some(vec![Span::Share(0.25), Span::Epochs(80), Span::Iterations(1200)]),
        ..config("mest-em")
    };
    assert_eq!(config.validate(0.1, 160, 1600), Ok(()));
    let schedule = config.schedule(160, 1600);
    let stage = |iteration| schedule.stage(&Progress { epoch: iteration / 10, epochs: 160, iteration, iterations: 1600 });
    assert_eq!([0, 399, 400, 799, 800, 1199, 1200].map(stage), [0, 0, 1, 1, 2, 2, 3]);
    let third = 0.2 / 3.0;
    for (got, expected) in schedule.drop.iter().zip([0.2, 2.0 * third, third, 0.0]) {
        assert!((got - expected).abs() < 1e-12);
    }
}

#[test]
fn growth_of_layers_with_a_density_of_their_own_is_in_proportion() {
    let config = MutationConfig { grow_to: Some(vec![0.15, 0.12, 0.1]), ..config("mest-ems") };
    assert!((config.density_at(0.1, &at(0, 160)) - 0.15).abs() < 1e-12);
    assert!((config.density_at(0.2, &at(90, 160)) - 0.24).abs() < 1e-12);
    assert_eq!(config.density_at(0.2, &at(125, 160)), 0.2);
    assert_eq!(config.density_at(0.9, &at(0, 160)), 1.0);
}

#[test]
fn smooth_decays_start_at_the_first_stage_and_end_with_the_last() {
    for decay in [Decay::Cosine, Decay::Sigmoid] {
        let config = MutationConfig { decay, ..config("mest-ems") };
        assert_eq!(config.validate(0.1, 160, 1600), Ok(()));
        let densities: Vec<f64> = (0..160).map(|epoch| config.density_at(0.1, &at(epoch, 160))).collect();
        assert!((densities[0] - 0.15).abs() < 1e-12);
        assert!(densities.is_sorted_by(|a, b| a >= b));
        assert!(densities[119] > 0.1);
        assert!(densities[120..].iter().all(|&density| density == 0.1));
        let drops = config.schedule(160, 1600);
        assert_eq!((drops.intensity(0.1, &at(0, 160)).drop, drops.intensity(0.1, &at(120, 160)).drop), (0.2, 0.0));
    }
}

#[test]
fn density_changes_at_events_only() {
    let config = MutationConfig { every: Some(Span::Epochs(7)), ..config("mest-ems") };
    let held = |epoch| (config.density_at(0.1, &at(epoch, 160)) * 1000.0).round();
    assert_eq!([90, 91, 125, 126].map(held), [150.0, 125.0, 125.0, 100.0], "events at 84, 91, 119, 126");
    // 91 epochs at 0.15, 35 at 0.125, 34 at 0.1.
    let expected = (91.0 * 0.15 + 35.0 * 0.125 + 34.0 * 0.1) / 160.0;
    assert!((config.mean_density(0.1, 160, 1600) - expected).abs() < 1e-12);
    assert!((MutationConfig::new(policy("static").expect("exists")).mean_density(0.3, 5, 50) - 0.3).abs() < 1e-12);
}

#[test]
fn runs_that_cannot_end_at_the_budget_are_refused() {
    let every = |every| MutationConfig { every: Some(every), ..config("mest-ems") };
    let (key, nearest, message) = refused(&every(Span::Epochs(100)));
    assert_eq!((key, nearest.as_str()), ("mutate-every", "79ep"), "{message}");
    assert_eq!(every(Span::Epochs(79)).validate(0.1, 160, 1600), Ok(()));
    assert_eq!(every(Span::Iterations(1599)).validate(0.1, 160, 1600), Ok(()), "just in time");
    let late = MutationConfig { stages: Some(vec![Span::Share(0.5), Span::Share(0.995)]), ..config("mest-ems") };
    let (key, nearest, message) = refused(&late);
    assert_eq!((key, nearest.as_str()), ("stages", "77ep,155ep"), "{message}");
    let earlier = MutationConfig { stages: Some(vec![Span::Epochs(77), Span::Epochs(155)]), ..late };
    assert_eq!(earlier.validate(0.1, 160, 1600), Ok(()));
}

#[test]
fn elastic_mutation_may_end_anywhere() {
    let config = MutationConfig { every: Some(Span::Epochs(150)), ..config("mest-em") };
    assert_eq!(config.validate(0.1, 160, 1600), Ok(()), "it is at the budget after every event");
}

#[test]
fn runs_too_short_for_their_stages_name_a_length() {
    let errors = config("mest-ems").validate(0.1, 1, 2).expect_err("two iterations");
    assert_eq!((errors[0].key, errors[0].nearest.as_str()), ("epochs", "2"), "{errors:?}");
    assert_eq!(config("mest-ems").validate(0.1, 2, 4), Ok(()));
}

#[test]
fn mistakes_name_key_and_nearest_value() {
    let base = config("mest-ems");
    let stages = |stages: &[Span]| MutationConfig { stages: Some(stages.to_vec()), ..base.clone() };
    let (key, nearest, message) = refused(&stages(&[Span::Epochs(120), Span::Share(0.5)]));
    assert_eq!((key, nearest.as_str()), ("stages", "0.5,120ep"), "{message}");
    assert_eq!(refused(&stages(&[Span::Epochs(90), Span::Iterations(900)])).1, "90ep");
    assert_eq!(refused(&stages(&[Span::Epochs(90), Span::Epochs(160)])).1, "90ep");

    let grow_to = |list: &[f64]| MutationConfig { grow_to: Some(list.to_vec()), ..base.clone() };
    let (key, nearest, message) = refused(&grow_to(&[0.15, 0.08, 0.1]));
    assert_eq!((key, nearest.as_str()), ("grow-to", "0.15,0.1,0.1"), "{message}");
    assert!(message.contains("budgeted density 0.1"), "{message}");
    assert_eq!(refused(&grow_to(&[0.15, 0.12])).1, "0.15,0.12,0.1");
    assert_eq!(refused(&grow_to(&[0.15, 0.12, 0.11])).1, "0.15,0.12,0.1");
    assert_eq!(refused(&grow_to(&[1.5, 0.12, 0.1])).1, "1,0.12,0.1");

    let drop = |list: &[f64]| MutationConfig { drop: Some(list.to_vec()), ..base.clone() };
    assert_eq!(refused(&drop(&[0.2, 0.1])).1, "0.2,0.1,0");
    assert_eq!(refused(&drop(&[0.2, 0.1, 0.1])).1, "0.2,0.1,0");
    assert_eq!(refused(&drop(&[1.0, -0.1, 0.0])).1, "0.9,0,0");

    let every = MutationConfig { every: Some(Span::Epochs(0)), ..base.clone() };
    assert_eq!((refused(&every).0, refused(&every).1), ("mutate-every", "1ep".into()));
    let lambda = MutationConfig { lambda: f64::NAN, ..base.clone() };
    assert_eq!(refused(&lambda).0, "importance-lambda");
    let both = MutationConfig { drop: Some(vec![]), lambda: -1.0, ..base };
    assert_eq!(both.validate(0.1, 160, 1600).expect_err("two mistakes").len(), 2);
}

#[test]
fn unknown_policies_list_the_known() {
    let error = policy("mest").expect_err("no such policy").to_string();
    for name in ["mest-ems", "mest-em", "set", "rigl", "snip", "static", "static-random", "dense"] {
        assert!(error.contains(name), "{error}");
        assert_eq!(policy(name).map(|policy| policy.name()), Ok(name));
    }
}
