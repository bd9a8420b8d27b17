//! What a rig and its tasks have in common: the current plugin's client and the handles to recover.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::plugin::Driver;
use crate::wire::driver::TaskHandle;

pub struct Shared {
    driver: Mutex<Driver>,
    handles: Mutex<BTreeMap<String, TaskHandle>>,
}

impl Shared {
    pub fn new(driver: Driver) -> Shared {
        Shared {
            driver: Mutex::new(driver),
            handles: Mutex::default(),
        }
    }

    pub fn driver(&self) -> Driver {
        self.driver.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn replace_driver(&self, driver: Driver) {
        *self.driver.lock().unwrap_or_else(PoisonError::into_inner) = driver;
    }

    pub fn remember(&self, id: &str, handle: TaskHandle) {
        self.handles
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id.to_owned(), handle);
    }

    pub fn forget(&self, id: &str) {
        self.handles.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    pub fn handles(&self) -> Vec<(String, TaskHandle)> {
        self.handles
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
            .into_iter()
            .collect()
    }
}
