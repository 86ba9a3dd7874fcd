//! Error numbers that libzmq sets: the system's, its own, and its substitutes for what a system lacks.

macro_rules! system {
    ($($name:ident)*) => {
        $(
            #[doc = concat!("The system's `", stringify!($name), "`.")]
            pub const $name: i32 = libc::$name;
        )*
    };
}

macro_rules! own {
    ($doc:literal; $($name:ident = $offset:literal,)*) => {
        $(
            #[doc = $doc]
            pub const $name: i32 = ZMQ_HAUSNUMERO + $offset;
        )*
    };
}

/// Where libzmq's own numbers begin.
const ZMQ_HAUSNUMERO: i32 = 156_384_712;

system! {
    EACCES EADDRINUSE EADDRNOTAVAIL EAGAIN EBUSY ECONNREFUSED EFAULT EHOSTUNREACH EINPROGRESS EINTR
    EINVAL EMFILE EMSGSIZE ENAMETOOLONG ENETDOWN ENOBUFS ENODEV ENOENT ENOMEM ENOTCONN ENOTSOCK ENOTSUP
    EPROTO EPROTONOSUPPORT
}

own! {
    "An error of libzmq's own.";
    EFSM = 51,
    ENOCOMPATPROTO = 52,
    ETERM = 53,
    EMTHREAD = 54,
}

own! {
    "In place of a number that the system does not have.";
    ENOTSUP_ALT = 1,
    EPROTONOSUPPORT_ALT = 2,
    ENOBUFS_ALT = 3,
    ENETDOWN_ALT = 4,
    EADDRINUSE_ALT = 5,
    EADDRNOTAVAIL_ALT = 6,
    ECONNREFUSED_ALT = 7,
    EINPROGRESS_ALT = 8,
    ENOTSOCK_ALT = 9,
    EMSGSIZE_ALT = 10,
    EAFNOSUPPORT_ALT = 11,
    ENETUNREACH_ALT = 12,
    ECONNABORTED_ALT = 13,
    ECONNRESET_ALT = 14,
    ENOTCONN_ALT = 15,
    ETIMEDOUT_ALT = 16,
    EHOSTUNREACH_ALT = 17,
    ENETRESET_ALT = 18,
}
