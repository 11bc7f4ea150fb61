//! Passwords: scrypt, at a cost that is meant to hurt, in bounded numbers [limits].
//!
//! A run takes 128 MiB and a core for a third of a second. So few run at once, some wait, the rest
//! is refused; and each check takes exactly one run, whatever it finds, so that time does not tell
//! who exists.

use crate::base::limits::{PASSWORD_HASHES_AT_ONCE, PASSWORD_HASHES_WAITING};
use crate::base::rng::Rng;
use crate::base::seams::{Spawn, blocking};
use scrypt::password_hash::phc::{Output, PasswordHash, Salt};
use scrypt::password_hash::{PasswordHasher as _, PasswordVerifier as _};
use scrypt::{Params, Scrypt, phc::ALG_ID};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

const BLOCK_SIZE: u32 = 8;
const PARALLELISM: u32 = 1;
const SALT_BYTES: usize = 16;
/// Bytes of memory that a stored hash may ask for: a corrupt one must not take the machine.
const MEMORY_BYTES_MAX: u64 = 512 << 20;
/// Passes over that memory that a stored hash may ask for.
const PARALLELISM_MAX: u32 = 4;

/// As many passwords are being hashed and waiting as may be; try again later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many passwords are being checked")]
pub struct Busy;

/// Hashes and checks passwords.
pub struct Passwords {
    params: Params,
    spawn: Arc<dyn Spawn>,
    rng: Arc<dyn Rng>,
    /// Stands in for the hash of a user that is not there: random, so that no password fits.
    nobody: PasswordHash,
    /// Passwords running or waiting. A permit goes along with the work, so that a caller who gives
    /// up does not make room that is not there.
    admitted: Arc<Semaphore>,
    /// Passwords running. At most `PASSWORD_HASHES_AT_ONCE`.
    running: Arc<Semaphore>,
    hashes: AtomicU64,
}

impl Passwords {
    /// Hashes at N = 2^`cost_log2`, r = 8, p = 1.
    ///
    /// # Panics
    /// When that needs more than 512 MiB.
    #[must_use]
    pub fn new(cost_log2: u8, spawn: Arc<dyn Spawn>, rng: Arc<dyn Rng>) -> Self {
        let params = Params::new(cost_log2, BLOCK_SIZE, PARALLELISM)
            .expect("r = 8 and p = 1 go with every cost that a machine can pay");
        let nobody = nobody(params, &*rng);
        assert!(affordable(&nobody), "a password's hash may need 512 MiB");
        Self {
            params,
            spawn,
            rng,
            nobody,
            admitted: Arc::new(Semaphore::new(PASSWORD_HASHES_AT_ONCE + PASSWORD_HASHES_WAITING)),
            running: Arc::new(Semaphore::new(PASSWORD_HASHES_AT_ONCE)),
            hashes: AtomicU64::new(0),
        }
    }

    /// The PHC string to store for a password.
    ///
    /// # Errors
    /// [`Busy`] when too many wait already.
    pub async fn hash(&self, password: &str) -> Result<String, Busy> {
        let scrypt = Scrypt::new_with_params(self.params);
        let salt: [u8; SALT_BYTES] = self.rng.bytes();
        self.run(password, move |password| {
            scrypt
                .hash_password_with_salt(password, &salt)
                .expect("scrypt takes any password and a salt of 16 bytes")
                .to_string()
        })
        .await
    }

    /// Whether the password is the one of the PHC string. `None` is a user that is not there, and
    /// a string that cannot be read counts as none: as much work, and false.
    ///
    /// # Errors
    /// [`Busy`] when too many wait already.
    pub async fn verify(&self, password: &str, phc: Option<&str>) -> Result<bool, Busy> {
        let stored = phc.and_then(|phc| PasswordHash::new(phc).ok()).filter(affordable);
        let known = stored.is_some();
        let hash = stored.unwrap_or_else(|| self.nobody.clone());
        self.run(password, move |password| {
            // Takes the parameters from the hash, and compares in constant time.
            let fits = Scrypt::default().verify_password(password, &hash).is_ok();
            fits & known
        })
        .await
    }

    /// Runs of scrypt so far.
    #[must_use]
    pub fn hashes(&self) -> u64 {
        self.hashes.load(Ordering::Relaxed)
    }

    async fn run<T: Send + 'static>(
        &self,
        password: &str,
        work: impl FnOnce(&[u8]) -> T + Send + 'static,
    ) -> Result<T, Busy> {
        let admitted = Arc::clone(&self.admitted);
        let admitted = admitted.try_acquire_owned().map_err(|_| Busy)?;
        let running = Arc::clone(&self.running).acquire_owned().await;
        let running = running.expect("this semaphore is never closed");
        let password = Zeroizing::new(password.as_bytes().to_vec());
        self.hashes.fetch_add(1, Ordering::Relaxed);
        metrics::counter!("tertulia_password_hashes_total").increment(1);
        let work = move || {
            let _held = (admitted, running);
            work(&password)
        };
        Ok(blocking(&*self.spawn, work).await)
    }
}

fn nobody(params: Params, rng: &dyn Rng) -> PasswordHash {
    PasswordHash {
        algorithm: ALG_ID,
        version: None,
        params: params.try_into().expect("three small numbers fit"),
        salt: Some(Salt::new(&rng.bytes::<SALT_BYTES>()).expect("16 bytes are a salt")),
        hash: Some(Output::new(&rng.bytes::<32>()).expect("32 bytes are a hash")),
    }
}

/// Whether it is a whole scrypt hash that this machine can check. Older and newer parameters than
/// ours are.
fn affordable(hash: &PasswordHash) -> bool {
    let param = |name: &str| hash.params.get_decimal(name);
    let (Some(cost_log2), Some(block_size), Some(parallelism)) =
        (param("ln"), param("r"), param("p"))
    else {
        return false;
    };
    let memory = 1u64
        .checked_shl(cost_log2)
        .and_then(|blocks| blocks.checked_mul(128 * u64::from(block_size)));
    hash.algorithm == ALG_ID
        && hash.version.is_none()
        && hash.salt.is_some()
        && hash.hash.is_some()
        && (1..=PARALLELISM_MAX).contains(&parallelism)
        && memory.is_some_and(|bytes| (1..=MEMORY_BYTES_MAX).contains(&bytes))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::base::rng::SystemRng;
    use crate::base::seams::SystemSpawn;
    use futures_util::future::BoxFuture;
    use futures_util::poll;
    use std::sync::Mutex;

    fn passwords(cost_log2: u8) -> Passwords {
        Passwords::new(cost_log2, Arc::new(SystemSpawn), Arc::new(SystemRng))
    }

    /// Holds work back until told.
    #[derive(Default)]
    struct Held(Mutex<Vec<Box<dyn FnOnce() + Send>>>);

    impl Held {
        fn waiting(&self) -> usize {
            self.0.lock().unwrap().len()
        }

        fn run_all(&self) {
            for work in std::mem::take(&mut *self.0.lock().unwrap()) {
                work();
            }
        }
    }

    impl Spawn for Held {
        fn task(&self, _: BoxFuture<'static, ()>) {}
        fn blocking(&self, work: Box<dyn FnOnce() + Send>) {
            self.0.lock().unwrap().push(work);
        }
        fn dedicated(&self, _: &'static str, _: BoxFuture<'static, ()>) {}
    }

    #[tokio::test]
    async fn every_check_costs_one_run_whatever_it_finds() {
        let passwords = passwords(6);
        let phc = passwords.hash("correct horse").await.unwrap();
        assert!(phc.starts_with("$scrypt$ln=6,r=8,p=1$"), "{phc}");
        assert_eq!(passwords.hashes(), 1);
        let checks = [
            ("correct horse", Some(phc.as_str()), true),
            ("correct horsf", Some(&phc), false),
            ("", Some(&phc), false),
            ("correct horse", None, false),
            ("correct horse", Some("no phc"), false),
        ];
        for (runs, (password, phc, fits)) in (2..).zip(checks) {
            assert_eq!(passwords.verify(password, phc).await, Ok(fits));
            assert_eq!(passwords.hashes(), runs);
        }
    }

    #[tokio::test]
    async fn one_password_has_many_hashes() {
        let passwords = passwords(4);
        let first = passwords.hash("same").await.unwrap();
        assert_ne!(first, passwords.hash("same").await.unwrap());
    }

    #[tokio::test]
    async fn hashes_of_another_cost_still_verify() {
        let phc = passwords(5).hash("pässword").await.unwrap();
        assert_eq!(passwords(7).verify("pässword", Some(&phc)).await, Ok(true));
        // Made by passlib, at N = 2^16.
        let foreign = "$scrypt$ln=16,r=8,p=1$aM15713r3Xsvxbi31lqr1Q$nFNh2CVHVjNldFVKDHDlm4CbdRSCdEBsjjJxD+iCs5E";
        assert_eq!(passwords(4).verify("password", Some(foreign)).await, Ok(true));
    }

    #[test]
    fn a_hash_that_would_take_the_machine_is_not_computed() {
        let tail = "$aM15713r3Xsvxbi31lqr1Q$nFNh2CVHVjNldFVKDHDlm4CbdRSCdEBsjjJxD+iCs5E";
        let of = |head: &str| affordable(&PasswordHash::new(&format!("{head}{tail}")).unwrap());
        assert!(of("$scrypt$ln=17,r=8,p=1"));
        assert!(of("$scrypt$ln=19,r=8,p=1"));
        for bad in [
            "$scrypt$ln=20,r=8,p=1",
            "$scrypt$ln=63,r=8,p=1",
            "$scrypt$ln=64,r=8,p=1",
            "$scrypt$ln=17,r=4294967295,p=1",
            "$scrypt$ln=17,r=0,p=1",
            "$scrypt$ln=17,r=8,p=5",
            "$scrypt$ln=17,r=8",
            "$argon2id$ln=17,r=8,p=1",
        ] {
            assert!(!of(bad), "{bad}");
        }
    }

    #[tokio::test]
    async fn few_run_some_wait_and_the_rest_is_refused() {
        let held = Arc::new(Held::default());
        let spawn = Arc::clone(&held) as Arc<dyn Spawn>;
        let passwords = Passwords::new(4, spawn, Arc::new(SystemRng));
        let mut callers: Vec<_> = (0..PASSWORD_HASHES_AT_ONCE + PASSWORD_HASHES_WAITING)
            .map(|_| Box::pin(passwords.hash("x")))
            .collect();
        for caller in &mut callers {
            assert!(poll!(caller).is_pending());
        }
        assert_eq!(held.waiting(), PASSWORD_HASHES_AT_ONCE);
        assert_eq!(passwords.hash("x").await, Err(Busy));
        assert_eq!(passwords.verify("x", None).await, Err(Busy));

        // One who gives up while running makes no room before the work is done.
        drop(callers.remove(0));
        assert_eq!(passwords.hash("x").await, Err(Busy));
        // One who gives up while waiting does.
        drop(callers.pop());
        let mut late = Box::pin(passwords.verify("x", None));
        assert!(poll!(&mut late).is_pending());

        while !callers.is_empty() {
            held.run_all();
            let mut left = Vec::new();
            for mut caller in callers {
                if poll!(&mut caller).is_pending() {
                    left.push(caller);
                }
                assert!(held.waiting() <= PASSWORD_HASHES_AT_ONCE);
            }
            callers = left;
        }
        assert!(poll!(&mut late).is_pending());
        held.run_all();
        assert_eq!(late.await, Ok(false));
    }
}
