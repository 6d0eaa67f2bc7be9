//! The memory plan as a picture: what lies where in the arena, from its first to its last launch.

use super::svg::Picture;
use crate::budget::bytes;
use crate::program::{Class, Program, Schedule, memory};
use mest_runtime::network::Phase;
use std::collections::BTreeSet;

const WIDTH: f64 = 1120.0;
const HEIGHT: f64 = 420.0;
/// Left of the picture, for the scale.
const LEFT: f64 = 70.0;
const BOTTOM: f64 = 34.0;

/// The style of a picture that stands alone; a report has its own.
const STYLE: &str = "<style>text{font:12px system-ui,sans-serif;fill:#555}.grid{stroke:#8884}.slot{stroke:#fff;stroke-width:.4}\
.m-weights{fill:#4269d0}.m-gradients{fill:#efb118}.m-optimizer{fill:#ff725c}.m-masks{fill:#6cc5b0}.m-topology{fill:#3ca951}\
.m-activations{fill:#ff8ab7}.m-state{fill:#a463f2}.m-data{fill:#97bbf5}.m-scratch{fill:#9c6b4e}</style>\n";

/// A step's launches from left to right, the arena from the bottom up. What stays from step to step spans the whole width.
pub fn picture(program: &Program) -> String {
    let Some(schedule) = program.schedules.iter().find(|schedule| schedule.phase == Phase::Train) else { return String::new() };
    draw(program, schedule).finish("live ranges of the memory plan over a training step")
}

/// The same as a file of its own.
pub fn file(program: &Program) -> String {
    let text = picture(program);
    match text.split_once('\n') {
        Some((open, rest)) => format!("{open}\n{STYLE}{rest}"),
        None => text,
    }
}

/// Classes that occur, in the order of the legend, by the name that the plan gives them.
pub fn classes(program: &Program) -> Vec<&'static str> {
    let found: BTreeSet<Class> = program.slots.iter().map(|slot| slot.class).collect();
    found.into_iter().map(Class::name).collect()
}

fn draw(program: &Program, schedule: &Schedule) -> Picture {
    let mut picture = Picture::new(WIDTH, HEIGHT);
    let arena = program.manifest.arena_bytes.max(1) as f64;
    let launches = schedule.launches.len().max(1) as f64;
    let (width, height) = (WIDTH - LEFT - 10.0, HEIGHT - BOTTOM - 10.0);
    let x = |launch: usize| LEFT + launch as f64 / launches * width;
    let y = |offset: usize| 10.0 + (1.0 - offset as f64 / arena) * height;
    for quarter in 0..=4 {
        let offset = program.manifest.arena_bytes * quarter / 4;
        picture.line([LEFT, y(offset), WIDTH - 10.0, y(offset)], "grid");
        picture.text(LEFT - 6.0, y(offset) + 4.0, "end", &bytes(offset));
    }
    let ranges = memory::live_ranges(&program.slots, schedule);
    for (index, slot) in program.slots.iter().enumerate() {
        let (first, last) = match (slot.persistent, ranges.get(&index)) {
            (true, _) => (0, schedule.launches.len().saturating_sub(1)),
            (false, Some(&range)) => range,
            (false, None) => continue,
        };
        let size = slot.bytes();
        let when = if slot.persistent { "every step".to_owned() } else { format!("launches {first} to {last}") };
        let title = format!("{} ({}), {}, {when}", slot.name, slot.class.name(), bytes(size));
        let (left, top) = (x(first), y(slot.offset + size));
        picture.rectangle([left, top, x(last + 1) - left, y(slot.offset) - top], &format!("slot m-{}", slot.class.name()), &title);
    }
    let half = schedule.launches.len() / 2;
    for (launch, anchor) in [(0, "start"), (half, "middle"), (schedule.launches.len(), "end")] {
        picture.text(x(launch), HEIGHT - 18.0, anchor, &launch.to_string());
    }
    picture.text(LEFT + width / 2.0, HEIGHT - 3.0, "middle", "launch of the training step");
    picture
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::import_bytes;
    use crate::zoo::{self, ZooOptions};
    use crate::{pipeline, settings};
    use mest_runtime::recipe::Recipe;

    #[test]
    fn every_slot_of_the_step_is_drawn_inside_the_picture() {
        let imported = import_bytes(&zoo::build("resnet8", &ZooOptions::default()).unwrap(), None).unwrap();
        let program = pipeline::compile(&imported, &settings::of_recipe(&Recipe::default(), None)).unwrap().program;
        let text = file(&program);
        let schedule = program.schedules.iter().find(|schedule| schedule.phase == Phase::Train).unwrap();
        let drawn = memory::live_ranges(&program.slots, schedule).len() + program.slots.iter().filter(|slot| slot.persistent).count();
        assert_eq!(text.matches("<rect ").count(), drawn);
        assert!(text.starts_with("<svg ") && text.contains("<style>") && text.ends_with("</svg>\n"));
        for value in text.split("y=\"").skip(1).filter_map(|rest| rest.split('"').next()?.parse::<f64>().ok()) {
            assert!((0.0..=HEIGHT).contains(&value), "{value}");
        }
        for class in ["weights", "activations", "topology"] {
            assert!(classes(&program).contains(&class) && text.contains(&format!("m-{class}")), "{class}");
        }
    }
}
