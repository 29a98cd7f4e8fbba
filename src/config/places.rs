//! Where each value of a configuration was written: a line of the file, or a variable of the environment.

use std::{collections::BTreeMap, path::Path};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{ConfigError, ConfigErrors};
use crate::setting::SettingOrigin;

/// `weir.toml:12` or `WEIR_UPSTREAM__0__URL`, by a key such as `upstream[0].url`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places(BTreeMap<String, SettingOrigin>);

impl Places {
    /// Notes the line of each value of a file.
    pub(super) fn add_file(&mut self, file: &Path, text: &str, table: &DeTable<'_>) {
        self.add_table("", &|at| line(file, text, at), table);
    }

    fn add_table(&mut self, parent: &str, line: &impl Fn(usize) -> String, table: &DeTable<'_>) {
        for (name, value) in table {
            let key =
                if parent.is_empty() { name.get_ref().to_string() } else { format!("{parent}.{}", name.get_ref()) };
            self.add(key, line, name.span().start, value);
        }
    }

    fn add(&mut self, key: String, line: &impl Fn(usize) -> String, at: usize, value: &Spanned<DeValue<'_>>) {
        match value.get_ref() {
            DeValue::Table(table) => self.add_table(&key, line, table),
            DeValue::Array(list) => {
                for (number, entry) in list.iter().enumerate() {
                    self.add(format!("{key}[{number}]"), line, entry.span().start, entry);
                }
            }
            _ => {}
        }
        self.0.insert(key, SettingOrigin::File(line(at)));
    }

    /// Notes that a variable of the environment gives the value.
    pub(super) fn add_variable(&mut self, key: String, variable: &str) {
        self.0.insert(key, SettingOrigin::Environment(variable.to_owned()));
    }

    /// Where the value of this very key was written.
    pub(super) fn origin(&self, key: &str) -> SettingOrigin {
        self.0.get(key).cloned().unwrap_or_default()
    }

    /// The errors with the place of each: that of its key, or of the table or list that has it.
    pub fn name(&self, mut errors: ConfigErrors) -> ConfigErrors {
        errors.0.iter_mut().for_each(|error| self.name_one(error));
        errors
    }

    pub(super) fn name_one(&self, error: &mut ConfigError) {
        let mut keys = std::iter::successors(Some(&*error.key), |key| Some(&key[..key.rfind(['.', '['])?]));
        error.place = error.place.take().or_else(|| keys.find_map(|key| self.0.get(key)).map(ToString::to_string));
    }
}

/// The line of a byte of `file`, which holds `text`.
pub(super) fn line(file: &Path, text: &str, at: usize) -> String {
    let lines = text.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count();
    format!("{}:{}", file.display(), lines + 1)
}
