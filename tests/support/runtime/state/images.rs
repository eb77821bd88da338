//! Images that the runtime has.

use podkeeper::cri::v1;

use super::State;
use super::names::hex;

impl State {
    /// An image by the name it was asked for or by its id.
    pub(crate) fn image(&self, name: &str) -> Option<&v1::Image> {
        let by_id = || self.images.values().find(|image| image.id == name);
        self.images.get(name).or_else(by_id)
    }

    /// The image is there from now on.
    pub(crate) fn add_image(&mut self, name: &str) -> &mut v1::Image {
        let image = || v1::Image {
            // As long as a digest is.
            id: format!("sha256:{0}{0}", hex(name)),
            repo_tags: vec![name.to_owned()],
            size: 1000,
            uid: Some(v1::Int64Value { value: 0 }),
            ..v1::Image::default()
        };
        self.images.entry(name.to_owned()).or_insert_with(image)
    }

    pub(in crate::runtime) fn image_status(
        &mut self,
        request: &v1::ImageStatusRequest,
    ) -> Option<v1::Image> {
        let name = request.image.clone().unwrap_or_default().image;
        if self.settings.every_image && self.image(&name).is_none() {
            self.add_image(&name);
        }
        self.image(&name).cloned()
    }

    pub(in crate::runtime) fn pull_image(
        &mut self,
        request: &v1::PullImageRequest,
    ) -> v1::PullImageResponse {
        let name = request.image.clone().unwrap_or_default().image;
        let image_ref = self.add_image(&name).id.clone();
        v1::PullImageResponse { image_ref }
    }

    pub(in crate::runtime) fn list_images(
        &self,
        filter: Option<&v1::ImageFilter>,
    ) -> Vec<v1::Image> {
        let name = filter.and_then(|f| f.image.as_ref()).map(|i| &i.image);
        match name.filter(|name| !name.is_empty()) {
            Some(name) => self.image(name).into_iter().cloned().collect(),
            None => self.images.values().cloned().collect(),
        }
    }

    pub(in crate::runtime) fn remove_image(&mut self, request: &v1::RemoveImageRequest) {
        let name = request.image.clone().unwrap_or_default().image;
        self.images
            .retain(|key, image| *key != name && image.id != name);
    }
}
