// Points ThreadSanitizer builds of this folder's tests at tsan.supp, however they are started. TSAN_OPTIONS
// adds to it.
#if defined(__SANITIZE_THREAD__)
extern "C" const char* __tsan_default_options() {
  return "suppressions=" MESHPARITY_SOURCE_DIR "/impl/comm/tsan.supp";
}
#endif
