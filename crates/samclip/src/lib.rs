//! samclip: segment images by text, click, box or everything.
