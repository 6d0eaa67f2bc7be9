//! The update rules, with PyTorch's meaning, over all live values of a parameter.

use super::loops::Threads;
use mest_runtime::network::UpdateRule;
use mest_runtime::optim::Optimizer;

/// Optimiser state of one parameter: as many tensors as the rule has, in the order of the values.
pub(super) type Moments = [Vec<f32>; 2];

/// The factor that brings the norm of all gradients under the bound.
pub(super) fn clip_scale<'g>(rule: &UpdateRule, gradients: impl Iterator<Item = &'g [f32]>) -> f32 {
    let Some(bound) = rule.max_norm else { return 1.0 };
    let squares: f64 = gradients.flatten().map(|&g| f64::from(g) * f64::from(g)).sum();
    (bound / (squares.sqrt() + 1e-6)).min(1.0) as f32
}

/// Updates `values` after step `step`, the first being 1.
pub(super) fn update(
    threads: &Threads,
    rule: &UpdateRule,
    step: i32,
    scale: f32,
    values: &mut [f32],
    gradient: &[f32],
    moments: &mut Moments,
) {
    let (rate, decay) = (rule.learning_rate as f32, rule.weight_decay as f32);
    let [first, second] = moments.each_mut().map(Vec::as_mut_slice);
    match rule.optimizer {
        Optimizer::Sgd { momentum: 0.0, .. } => threads.each(
            values.len(),
            [values],
            &mut [],
            #[inline(always)]
            |part| {
                for (w, g) in part.outputs.into_iter().flatten().zip(&gradient[part.items]) {
                    *w -= rate * (g * scale + decay * *w);
                }
            },
        ),
        Optimizer::Sgd { momentum, nesterov } => {
            let momentum = momentum as f32;
            threads.each(
                values.len(),
                [values, first],
                &mut [],
                #[inline(always)]
                |part| {
                    let [values, first] = part.outputs;
                    for ((w, m), g) in values.iter_mut().zip(first).zip(&gradient[part.items]) {
                        let g = g * scale + decay * *w;
                        *m = momentum * *m + g;
                        *w -= rate * if nesterov { g + momentum * *m } else { *m };
                    }
                },
            );
        }
        Optimizer::Adagrad { eps } => {
            let eps = eps as f32;
            threads.each(
                values.len(),
                [values, first],
                &mut [],
                #[inline(always)]
                |part| {
                    let [values, squares] = part.outputs;
                    for ((w, s), g) in values.iter_mut().zip(squares).zip(&gradient[part.items]) {
                        let g = g * scale + decay * *w;
                        *s += g * g;
                        *w -= rate * g / (s.sqrt() + eps);
                    }
                },
            );
        }
        Optimizer::Adam { betas, eps } | Optimizer::AdamW { betas, eps } => {
            let decoupled = matches!(rule.optimizer, Optimizer::AdamW { .. });
            let [correction, correction2] = betas.map(|beta| 1.0 - beta.powi(step));
            let (rate_now, root) = ((rule.learning_rate / correction) as f32, correction2.sqrt() as f32);
            let ([beta1, beta2], eps) = (betas.map(|beta| beta as f32), eps as f32);
            threads.each(
                values.len(),
                [values, first, second],
                &mut [],
                #[inline(always)]
                |part| {
                    let [values, first, second] = part.outputs;
                    for (((w, m), v), g) in values.iter_mut().zip(first).zip(second).zip(&gradient[part.items]) {
                        let mut g = g * scale;
                        if decoupled {
                            *w *= 1.0 - rate * decay;
                        } else {
                            g += decay * *w;
                        }
                        *m = beta1 * *m + (1.0 - beta1) * g;
                        *v = beta2 * *v + (1.0 - beta2) * g * g;
                        *w -= rate_now * *m / (v.sqrt() / root + eps);
                    }
                },
            );
        }
    }
}
