//! Files of the operating system.
use super::*;
/// Files of the operating system.
#[derive(Debug, Default)]
pub struct RealMedia {}
impl Media for RealMedia {
    fn create_dir_all(&self, _: &Path) -> io::Result<()> {
        todo!()
    }
    fn open(&self, _: &Path) -> io::Result<Arc<dyn MediaFile>> {
        todo!()
    }
    fn open_rw(&self, _: &Path) -> io::Result<Arc<dyn MediaFile>> {
        todo!()
    }
    fn create(&self, _: &Path, _: u64) -> io::Result<Arc<dyn MediaFile>> {
        todo!()
    }
    fn rename(&self, _: &Path, _: &Path) -> io::Result<()> {
        todo!()
    }
    fn remove(&self, _: &Path) -> io::Result<()> {
        todo!()
    }
    fn list(&self, _: &Path) -> io::Result<Vec<DirEntry>> {
        todo!()
    }
    fn exists(&self, _: &Path) -> io::Result<bool> {
        todo!()
    }
    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        todo!()
    }
    fn lock(&self, _: &Path) -> io::Result<Box<dyn LockGuard>> {
        todo!()
    }
    fn free_bytes(&self, _: &Path) -> io::Result<u64> {
        todo!()
    }
}
