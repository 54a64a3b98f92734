// xml.c: is a text well-formed XML? expat says. Its own limits against documents that expand without end stay on; external
// entities are never read (a parser without handlers does not).
#include "base.h"
#include <expat.h>
#include <limits.h>

tl_status tl_xml_check(const char *text, size_t n) {
  if (n > INT_MAX)
    return tl_fail(TL_E_ARG, "a text of %zu bytes is too long for the XML parser", n);
  XML_Parser p = XML_ParserCreate(NULL);
  if (!p)
    return tl_fail(TL_E_MEMORY, "out of memory for an XML parser");
  tl_status s = TL_OK;
  if (XML_Parse(p, text, (int)n, XML_TRUE) != XML_STATUS_OK)
    s = tl_fail(TL_E_FORMAT, "line %lu, column %lu: %s", XML_GetCurrentLineNumber(p), XML_GetCurrentColumnNumber(p) + 1,
                XML_ErrorString(XML_GetErrorCode(p)));
  XML_ParserFree(p);
  return s;
}
