//! The grid: a recipe with a table of values, and the recipes that it stands for.

use crate::cli::failure::Failure;
use crate::cli::flags::MODEL;
use crate::cli::train;
use mest_runtime::recipe::Recipe;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The table of a sweep's recipe.
const GRID: &str = "grid";
/// Keys that the order of runs, and the columns of tables, begin with; the seed comes last.
const FIRST: [&str; 4] = ["policy", "scheme", "sparsity", "density"];
const LAST: &str = "seed";
/// Keys that say nothing where no layer is sparse.
const OF_SPARSE_LAYERS: [&str; 9] = ["scheme", "sparsity", "density", "distribution", "mutate-every", "stages", "drop", "grow-to", "grow"];

/// What a sweep runs.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Grid {
    /// The model that every run begins with; `None` for the built-in one.
    pub(super) model: Option<PathBuf>,
    /// Keys that the grid varies, in order.
    pub(super) keys: Vec<String>,
    /// The runs, in order.
    pub(super) cells: Vec<Cell>,
}

/// One run.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Cell {
    /// Its folder's name.
    pub(super) name: String,
    /// The grid's keys and this run's values; keys that say nothing for its policy are absent.
    pub(super) values: BTreeMap<String, String>,
    /// What it runs.
    pub(super) recipe: Recipe,
}

impl Grid {
    /// Reads a sweep's recipe; `overrides` lie over its keys.
    ///
    /// # Errors
    /// A file that can't be read, a table that is no grid, and every run whose recipe can't be used.
    pub(super) fn read(path: &Path, overrides: &[(&str, String)]) -> Result<Self, Failure> {
        let shown = path.display();
        let text = std::fs::read_to_string(path)
            .map_err(|error| Failure::refused(format!("{shown}: the recipe can't be read: {error}; check the path")))?;
        let map: Map<String, Value> =
            toml::from_str(&text).map_err(|error| Failure::refused(format!("{shown}: no valid TOML: {error}")))?;
        Grid::of(map, overrides).map_err(|errors| Failure::refused_all(format!("{shown}: the sweep can't be run:"), &errors))
    }

    /// The grid of a recipe with a table of values; `overrides` lie over its keys.
    ///
    /// # Errors
    /// A table that is no grid, and every run whose recipe can't be used.
    pub(crate) fn of(map: Map<String, Value>, overrides: &[(&str, String)]) -> Result<Self, Vec<String>> {
        let mut map: Map<String, Value> = map.into_iter().map(|(key, value)| (key.replace('_', "-"), value)).collect();
        let model = map.remove(MODEL).and_then(|value| value.as_str().map(PathBuf::from));
        let Some(Value::Object(grid)) = map.remove(GRID) else {
            return Err(vec!["it has no table `grid` of keys and lists, such as [grid] seed = [0, 1, 2]".to_owned()]);
        };
        map.extend(overrides.iter().map(|(key, value)| ((*key).to_owned(), Value::String(value.clone()))));
        let axes = axes(grid, &map)?;
        let mut base = train::base(model.is_some(), map.contains_key("data")).to_map();
        base.extend(map);
        let (mut cells, mut errors) = (Vec::<Cell>::new(), Vec::new());
        for values in product(&axes) {
            match cell(&base, &values) {
                Ok(cell) if cells.iter().any(|other| other.name == cell.name) => {}
                Ok(cell) => cells.push(cell),
                Err(mistakes) => errors.extend(mistakes.into_iter().filter(|mistake| !errors.contains(mistake)).collect::<Vec<_>>()),
            }
        }
        let keys = axes.into_iter().map(|(key, _)| key).collect();
        if errors.is_empty() { Ok(Grid { model, keys, cells }) } else { Err(errors) }
    }
}

/// The keys that vary, each with its values.
fn axes(grid: Map<String, Value>, fixed: &Map<String, Value>) -> Result<Vec<(String, Vec<Value>)>, Vec<String>> {
    let (mut axes, mut errors) = (Vec::new(), Vec::new());
    for (key, values) in grid {
        let key = key.replace('_', "-");
        match values {
            Value::Array(values) if !values.is_empty() => {
                if fixed.contains_key(&key) {
                    errors.push(format!("`{key}` is in the grid and beside it; keep one"));
                }
                axes.push((key, values));
            }
            other => errors.push(format!("grid.{key} = {other}: it must list values, such as [{other}]")),
        }
    }
    let rank = |key: &str| FIRST.iter().position(|first| *first == key).unwrap_or(FIRST.len() + usize::from(key == LAST));
    axes.sort_by_key(|(key, _)| (rank(key), key.clone()));
    if errors.is_empty() { Ok(axes) } else { Err(errors) }
}

/// Every combination of the axes' values, the last axis fastest.
fn product(axes: &[(String, Vec<Value>)]) -> Vec<Vec<(String, Value)>> {
    let mut rows = vec![vec![]];
    for (key, values) in axes {
        let extended = |row: &Vec<(String, Value)>| {
            values.iter().map(|value| [row.as_slice(), &[(key.clone(), value.clone())]].concat()).collect::<Vec<_>>()
        };
        rows = rows.iter().flat_map(extended).collect();
    }
    rows
}

/// The run of one combination.
fn cell(base: &Map<String, Value>, values: &[(String, Value)]) -> Result<Cell, Vec<String>> {
    let mut map = base.clone();
    if values.iter().any(|(key, _)| key == "sparsity" || key == "density") {
        map.remove("sparsity");
        map.remove("density");
    }
    map.extend(values.iter().cloned());
    let parse =
        |map: Map<String, Value>| Recipe::from_map(map).map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>());
    let idle = idle_keys(&parse(map.clone())?);
    map.retain(|key, _| !idle.contains(&key.as_str()));
    let recipe = parse(map)?;
    let told: BTreeMap<String, String> =
        values.iter().filter(|(key, _)| !idle.contains(&key.as_str())).map(|(key, value)| (key.clone(), show(value))).collect();
    let words: Vec<String> =
        values.iter().filter_map(|(key, _)| told.get(key).map(|value| format!("{key}-{}", value.replace([':', '/', ' '], "-")))).collect();
    let name = words.join("_");
    let errors = recipe.validate().err().unwrap_or_default();
    if errors.is_empty() {
        Ok(Cell { name, values: told, recipe })
    } else {
        Err(errors.iter().map(|error| format!("{name}: {error}")).collect())
    }
}

/// Keys that the recipe's policy leaves without effect: a grid of policies shares one recipe.
fn idle_keys(recipe: &Recipe) -> Vec<&'static str> {
    let policy = recipe.policy.0;
    if policy.name() == "dense" {
        return OF_SPARSE_LAYERS.into_iter().filter(|key| *key != "mutate-every" || recipe.sieve.is_none()).collect();
    }
    let soft = policy.density(0.1, 0.2) > 0.1;
    let mut idle = vec![];
    if !policy.mutates() {
        idle.extend(["stages", "drop", "grow-to", "grow"]);
        idle.extend(recipe.sieve.is_none().then_some("mutate-every"));
    }
    idle.push(if soft { "drop" } else { "grow-to" });
    idle
}

/// The value as text, without the quotes of a string.
pub(super) fn show(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(show).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid(text: &str) -> Result<Grid, Vec<String>> {
        Grid::of(toml::from_str(text).unwrap(), &[])
    }

    #[test]
    fn every_combination_is_a_run_and_dense_ones_are_one() {
        let text = r#"
            data = "digits"
            epochs = 4
            drop = [0.2, 0.1, 0.0]
            [grid]
            seed = [0, 1]
            sparsity = [0.9, 0.95]
            policy = ["dense", "mest-em", "static"]
        "#;
        let grid = grid(text).unwrap();
        assert_eq!(grid.keys, ["policy", "sparsity", "seed"]);
        let names: Vec<&str> = grid.cells.iter().map(|cell| cell.name.as_str()).collect();
        assert_eq!(names.len(), 2 + 4 + 4);
        assert_eq!((names[0], names[1]), ("policy-dense_seed-0", "policy-dense_seed-1"));
        assert_eq!((names[2], names[9]), ("policy-mest-em_sparsity-0.9_seed-0", "policy-static_sparsity-0.95_seed-1"));
        let cell = &grid.cells[3];
        assert_eq!((cell.recipe.seed, cell.recipe.density(), cell.recipe.epochs), (1, 0.1, 4));
        assert!(cell.recipe.drop.is_some() && grid.cells[6].recipe.drop.is_none(), "what a policy doesn't read is left out");
    }

    #[test]
    fn without_data_it_is_the_built_in_job() {
        let cell = grid("[grid]\nseed = [3]").unwrap().cells.remove(0);
        assert_eq!((cell.recipe.data.as_deref(), cell.recipe.epochs, cell.recipe.seed), (Some("digits"), 30, 3));
    }

    #[test]
    fn every_recipe_of_the_examples_can_be_run() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/recipes");
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let grid = Grid::read(&path, &[]).unwrap_or_else(|failure| panic!("{}: {failure:?}", path.display()));
            assert!(grid.cells.len() > 1, "{}", path.display());
        }
    }

    #[test]
    fn mistakes_are_told_at_once() {
        assert!(grid("epochs = 3").unwrap_err()[0].contains("[grid]"));
        let errors = grid("lr = 0.1\n[grid]\nlr = [0.1, 0.2]\nseed = 3").unwrap_err();
        assert_eq!(errors, ["`lr` is in the grid and beside it; keep one", "grid.seed = 3: it must list values, such as [3]"]);
        let errors = grid("[grid]\nsparsity = [0.5, 1.0]\npolicy = [\"static\", \"set\"]").unwrap_err();
        assert!(errors.len() == 2 && errors.iter().all(|error| error.contains("sparsity = 1") && error.contains("0.99")), "{errors:?}");
        let errors = grid("[grid]\npolicy = [\"mest\"]").unwrap_err();
        assert!(errors[0].contains("did you mean `mest-em`"), "{errors:?}");
    }
}
