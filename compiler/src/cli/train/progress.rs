//! What a training shows while it runs: a bar on a terminal, nothing elsewhere.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use mest_runtime::train::{EpochMetrics, Observer, Step};
use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::time::Instant;

/// A bar over the whole run, in iterations.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
    began: Instant,
    /// Examples since it began: what the speed is measured over.
    examples: usize,
    test_accuracy: Option<f64>,
}

impl Progress {
    /// Drawn on standard error, where that is a terminal.
    pub(crate) fn new() -> Self {
        let target = if std::io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(None, target);
        // The template is fixed; a mistake in it would leave the default bar.
        if let Ok(style) = ProgressStyle::with_template("{wide_bar} {pos}/{len}  {msg}  eta {eta}") {
            bar.set_style(style);
        }
        Progress { bar, began: Instant::now(), examples: 0, test_accuracy: None }
    }

    /// Leaves the terminal as it was.
    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// The line beside the bar.
fn message(step: &Step, images_per_s: f64, test_accuracy: Option<f64>) -> String {
    let test = test_accuracy.map_or_else(String::new, |accuracy| format!("  test {:.2} %", accuracy * 100.0));
    let (epoch, epochs, loss, accuracy) = (step.epoch, step.epochs, step.loss, step.accuracy * 100.0);
    format!("epoch {epoch}/{epochs}  loss {loss:.4}  accuracy {accuracy:.2} %{test}  {images_per_s:.0} images/s")
}

impl Observer for Progress {
    fn begin(&mut self, _done: usize, _epochs: usize) {
        self.began = Instant::now();
    }

    fn step(&mut self, step: &Step) {
        self.examples += step.examples;
        if self.bar.is_hidden() {
            return;
        }
        self.bar.set_length((step.epochs * step.iterations) as u64);
        self.bar.set_position(((step.epoch - 1) * step.iterations + step.iteration) as u64);
        let images_per_s = self.examples as f64 / self.began.elapsed().as_secs_f64().max(1e-9);
        self.bar.set_message(message(step, images_per_s, self.test_accuracy));
    }

    fn epoch(&mut self, metrics: &EpochMetrics) -> ControlFlow<()> {
        self.test_accuracy = Some(metrics.test_accuracy);
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_tells_loss_accuracy_and_speed() {
        let step = Step { epoch: 2, epochs: 5, iteration: 3, iterations: 9, examples: 64, loss: 0.25, accuracy: 0.5, learning_rate: 0.1 };
        assert_eq!(message(&step, 1234.4, None), "epoch 2/5  loss 0.2500  accuracy 50.00 %  1234 images/s");
        assert_eq!(message(&step, 1.0, Some(0.975)), "epoch 2/5  loss 0.2500  accuracy 50.00 %  test 97.50 %  1 images/s");
    }
}
