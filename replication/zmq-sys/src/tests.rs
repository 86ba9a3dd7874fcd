use super::*;

#[test]
fn layouts_are_those_of_zmq_h() {
    assert_eq!((size_of::<zmq_msg_t>(), align_of::<zmq_msg_t>()), (64, 8));
    let socket = size_of::<*mut c_void>();
    assert_eq!(size_of::<zmq_pollitem_t>(), socket + 8);
    assert_eq!(std::mem::offset_of!(zmq_pollitem_t, events), socket + 4);
}

#[test]
fn the_library_is_4_3_5_or_a_later_4_3() {
    let (mut major, mut minor, mut patch) = (0, 0, 0);
    // SAFETY: three valid pointers to write an int to.
    unsafe { zmq_version(&mut major, &mut minor, &mut patch) };
    assert_eq!((major, minor), (4, 3));
    assert!(patch >= 5);
}

#[test]
fn curve_is_there() {
    // SAFETY: a terminated string.
    assert_eq!(unsafe { zmq_has(c"curve".as_ptr()) }, 1);
}
