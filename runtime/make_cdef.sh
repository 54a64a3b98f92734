#!/bin/sh
# make_cdef.sh TL_H OUT: the declarations between TL_CDEF_BEGIN and TL_CDEF_END, as one C string literal for main.c.
set -e
sed -n '/^\/\/ TL_CDEF_BEGIN$/,/^\/\/ TL_CDEF_END$/p' "$1" | sed -e 's://.*$::' -e '/^[[:space:]]*$/d' \
  -e 's/\\/\\\\/g' -e 's/"/\\"/g' -e 's/^/"/' -e 's/$/\\n"/' > "$2.tmp"
mv "$2.tmp" "$2"
